// Rows of packed weights, as floats: weight_at undoes the layouts of WeightView (kernels.hpp).
#pragma once

#include "bfloat16.hpp"
#include "linear.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename V>
float weight_at(const WeightView& weight, int64_t output, int64_t k) {
    const int64_t panel = output / kPanel<V>, lane = output % kPanel<V>;
    if (weight.kind == WeightKind::Float32)
        return static_cast<const float*>(weight.data)[(panel * weight.inputs + k) * kPanel<V> + lane];
    const int64_t together = inputs_together(weight.kind);
    const int64_t start = panel * kPanel<V> * ((weight.inputs + together - 1) / together * together);
    const int64_t at = start + pair_offset(kPanel<V>, lane, k);
    if (weight.kind == WeightKind::Bfloat16)
        return from_bfloat16(static_cast<const uint16_t*>(weight.data)[at]);
    const int8_t* codes = static_cast<const int8_t*>(weight.data);
    if (weight.kind == WeightKind::Int8) return float(codes[at]) * weight.scales[output];
    const int64_t nibble = start + k / kStep * kStep * kPanel<V> + int4_offset(lane, k % kStep);
    const uint8_t byte = uint8_t(codes[nibble / 2]);
    return float((nibble % 2 ? byte >> 4 : byte & 15) - kNibbleOffset) * weight.scales[output];
}

template <typename V>
void embed(const EmbedTask& task, int part, int parts) {
    const int64_t width = task.table.inputs;
    const Range range = share(task.rows, part, parts);
    for (int64_t row = range.begin; row < range.end; ++row) {
        const int32_t id = task.token_ids[row];
        for (int64_t k = 0; k < width; ++k)
            task.y[row * width + k] = id == kElsewhere ? 0.0f : weight_at<V>(task.table, id, k);
    }
}

}  // namespace ernie::ERNIE_VARIANT
