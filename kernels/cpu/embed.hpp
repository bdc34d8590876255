// Rows of packed weights, as floats: weight_at undoes the layouts of WeightView (kernels.hpp).
#pragma once

#include "bfloat16.hpp"
#include "linear.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename V>
float weight_at(const WeightView& weight, int64_t output, int64_t k) {
    const int64_t width = weight.is_narrow ? V::kLanes : kPanel<V>, panel = output / width,
                  lane = output % width;
    if (weight.kind == WeightKind::Float32)
        return static_cast<const float*>(weight.data)[(panel * weight.inputs + k) * width + lane];
    const int64_t together = inputs_together(weight.kind, weight.in_quads);
    const int64_t start = panel * width * ((weight.inputs + together - 1) / together * together);
    const int64_t pair = start + pair_offset(width, lane, k);
    if (weight.kind == WeightKind::Bfloat16)
        return from_bfloat16(static_cast<const uint16_t*>(weight.data)[pair]);
    const uint8_t* bytes = static_cast<const uint8_t*>(weight.data);
    int32_t code;
    if (weight.kind == WeightKind::Int4) {
        const int64_t place = weight.in_quads ? quad_nibble(lane, k % kStep) : pair_nibble(lane, k % kStep);
        const int64_t nibble = start + k / kStep * kStep * width + place;
        code = (nibble % 2 ? bytes[nibble / 2] >> 4 : bytes[nibble / 2] & 15) - kNibbleOffset;
    } else if (weight.in_quads) {
        code = bytes[start + quad_offset(width, lane, k)] - kByteOffset;
    } else {
        code = int8_t(bytes[pair]);
    }
    if (!weight.group_scales) return float(code) * weight.scales[output];
    return float(code) * from_bfloat16(group_scales<V>(weight, output / kPanel<V>, k)[output % kPanel<V>]);
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
