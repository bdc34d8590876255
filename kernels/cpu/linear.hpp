// y = x W^T over panels of outputs. Each output is one chain of multiply-adds over k in rising order, whatever
// the number of rows in the tile: a row's result does not depend on its neighbours.
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int kRegisters = 4;  // registers per panel

template <typename V>
inline constexpr int kPanel = kRegisters * V::kLanes;

template <typename V>
void store_outputs(const V* values, const float* scales, float* y, int64_t count) {
    for (int i = 0; i < kRegisters; ++i) {
        const int64_t left = count - i * V::kLanes;
        if (left <= 0) return;
        const V value = scales ? V::mul(values[i], V::load(scales + i * V::kLanes)) : values[i];
        store_partial(value, y + i * V::kLanes, left);
    }
}

template <typename V, typename T, int kRows>
void float_tile(const LinearTask& task, int64_t panel, int64_t row) {
    const int64_t inputs = task.weight.inputs, outputs = task.weight.outputs;
    const T* w = static_cast<const T*>(task.weight.data) + panel * kPanel<V> * inputs;
    const float* x = task.x + row * inputs;
    V sums[kRows][kRegisters];
    for (auto& row_sums : sums)
        for (V& sum : row_sums) sum = V::zero();
    for (int64_t k = 0; k < inputs; ++k, w += kPanel<V>) {
        V weights[kRegisters];
        for (int i = 0; i < kRegisters; ++i) weights[i] = V::load(w + i * V::kLanes);
        for (int r = 0; r < kRows; ++r) {
            const V value = V::set(x[r * inputs + k]);
            for (int i = 0; i < kRegisters; ++i) sums[r][i] = V::fma(weights[i], value, sums[r][i]);
        }
    }
    const float* scales = task.weight.scales ? task.weight.scales + panel * kPanel<V> : nullptr;
    for (int r = 0; r < kRows; ++r)
        store_outputs(sums[r], scales, task.y + (row + r) * outputs + panel * kPanel<V>,
                      outputs - panel * kPanel<V>);
}

// Integer sums of one activation group, then one float multiply-add by the group's scale.
template <typename V, bool kIsInt16, int kRows>
void dot_tile(const LinearTask& task, int64_t panel, int64_t row) {
    using Int = typename V::Int;
    const QuantizedRows& q = task.quantized;
    const int64_t outputs = task.weight.outputs;
    const int8_t* w = static_cast<const int8_t*>(task.weight.data) + panel * kPanel<V> * q.stride;
    V totals[kRows][kRegisters];
    for (auto& row_totals : totals)
        for (V& total : row_totals) total = V::zero();
    for (int64_t g = 0; g < q.groups; ++g) {
        Int high[kRows][kRegisters], low[kRows][kRegisters];
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < kRegisters; ++i) high[r][i] = low[r][i] = Int::zero();
        const int64_t end = (g + 1) * q.group < q.stride ? (g + 1) * q.group : q.stride;
        for (int64_t k = g * q.group; k < end; k += 4, w += 4 * kPanel<V>) {
            for (int r = 0; r < kRows; ++r) {
                const int64_t at = (row + r) * q.stride + k;
                const int32_t quad = load_quad(q.high + at);
                for (int i = 0; i < kRegisters; ++i)
                    high[r][i] = V::dot(high[r][i], w + 4 * i * V::kLanes, quad);
                if constexpr (kIsInt16) {
                    const int32_t low_quad = load_quad(q.low + at);
                    for (int i = 0; i < kRegisters; ++i)
                        low[r][i] = V::dot(low[r][i], w + 4 * i * V::kLanes, low_quad);
                }
            }
        }
        for (int r = 0; r < kRows; ++r) {
            const V scale = V::set(q.scales[(row + r) * q.groups + g]);
            for (int i = 0; i < kRegisters; ++i) {
                const Int sum = kIsInt16 ? V::combine(high[r][i], low[r][i]) : high[r][i];
                totals[r][i] = V::fma(V::convert(sum), scale, totals[r][i]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r)
        store_outputs(totals[r], task.weight.scales + panel * kPanel<V>,
                      task.y + (row + r) * outputs + panel * kPanel<V>, outputs - panel * kPanel<V>);
}

template <typename V, int kRows>
void tile(const LinearTask& task, int64_t panel, int64_t row) {
    switch (task.weight.kind) {
        case WeightKind::Float32:
            return float_tile<V, float, kRows>(task, panel, row);
        case WeightKind::Bfloat16:
            return float_tile<V, uint16_t, kRows>(task, panel, row);
        case WeightKind::Int8:
            return float_tile<V, int8_t, kRows>(task, panel, row);
        case WeightKind::Int8Dot:
            if (task.quantized.low) return dot_tile<V, true, kRows>(task, panel, row);
            return dot_tile<V, false, kRows>(task, panel, row);
    }
}

// A thread owns a run of panels, so that it reads one contiguous stream; a panel stays in cache for all rows.
template <typename V>
void linear(const LinearTask& task, int part, int parts) {
    const int64_t panels = (task.weight.outputs + kPanel<V> - 1) / kPanel<V>;
    const Range range = share(panels, part, parts);
    constexpr int kRowTile = V::kLanes == 16 ? 4 : V::kLanes == 8 ? 3 : 2;
    for (int64_t panel = range.begin; panel < range.end; ++panel) {
        int64_t row = 0;
        for (; row + kRowTile <= task.rows; row += kRowTile) tile<V, kRowTile>(task, panel, row);
        for (; row < task.rows; ++row) tile<V, 1>(task, panel, row);
    }
}

template <typename V>
float weight_at(const WeightView& weight, int64_t output, int64_t k) {
    const int64_t panel = output / kPanel<V>, lane = output % kPanel<V>;
    const int64_t at = panel * kPanel<V> * weight.inputs + k * kPanel<V> + lane;
    if (weight.kind == WeightKind::Float32) return static_cast<const float*>(weight.data)[at];
    if (weight.kind == WeightKind::Bfloat16) {
        const uint32_t bits = uint32_t(static_cast<const uint16_t*>(weight.data)[at]) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    const int8_t* codes = static_cast<const int8_t*>(weight.data);
    if (weight.kind == WeightKind::Int8) return float(codes[at]) * weight.scales[output];
    const int64_t quads = (weight.inputs + 3) / 4;
    return float(codes[((panel * quads + k / 4) * kPanel<V> + lane) * 4 + k % 4]) * weight.scales[output];
}

template <typename V>
void embed(const EmbedTask& task, int part, int parts) {
    const int64_t width = task.table.inputs;
    const Range range = share(task.rows, part, parts);
    for (int64_t row = range.begin; row < range.end; ++row)
        for (int64_t k = 0; k < width; ++k)
            task.y[row * width + k] = weight_at<V>(task.table, task.token_ids[row], k);
}

}  // namespace ernie::ERNIE_VARIANT
