// y = x W^T over panels of outputs. Each output is one chain of multiply-adds over k in rising order, whatever
// the number of rows in the tile: a row's result does not depend on its neighbours.
//
// A tile keeps kRowTile rows times one panel of sums in registers; quantized weights are widened on their way
// into the tile, which all its rows share.
#pragma once

#include "dot.hpp"

namespace ernie::ERNIE_VARIANT {

// Sums, weights and one activation fit the 16 registers of SSE and AVX2, the 32 of AVX-512.
template <typename V>
inline constexpr int kRegisters = V::kLanes == 8 ? 2 : 4;  // registers per panel
template <typename V>
inline constexpr int kRowTile = V::kLanes == 16  ? 4
                                : V::kLanes == 8 ? 6
                                                 : 2;
template <typename V>
inline constexpr int kPanel = kRegisters<V> * V::kLanes;

inline constexpr int64_t kRowBlockBytes = 256
                                          << 10;  // activations that stay in the second cache for all panels

template <typename V>
void store_outputs(const V* values, const float* scales, float* y, int64_t count) {
    for (int i = 0; i < kRegisters<V>; ++i) {
        const int64_t left = count - i * V::kLanes;
        if (left <= 0) return;
        const V value = scales ? V::mul(values[i], V::load(scales + i * V::kLanes)) : values[i];
        store_partial(value, y + i * V::kLanes, left);
    }
}

template <typename V, int kRows>
void store_tile(const V (&sums)[kRows][kRegisters<V>], const LinearTask& task, int64_t panel, int64_t row) {
    const int64_t outputs = task.weight.outputs, first = panel * kPanel<V>;
    const float* scales = task.weight.scales ? task.weight.scales + first : nullptr;
    for (int r = 0; r < kRows; ++r)
        store_outputs(sums[r], scales, task.y + (row + r) * outputs + first, outputs - first);
}

template <typename V, typename T, int kRows>
void float_tile(const LinearTask& task, int64_t panel, int64_t row) {
    const int64_t inputs = task.weight.inputs;
    const T* w = static_cast<const T*>(task.weight.data) + panel * kPanel<V> * inputs;
    const float* x = task.x + row * inputs;
    V sums[kRows][kRegisters<V>];
    for (auto& row_sums : sums)
        for (V& sum : row_sums) sum = V::zero();
    for (int64_t k = 0; k < inputs; ++k, w += kPanel<V>) {
        V weights[kRegisters<V>];
        for (int i = 0; i < kRegisters<V>; ++i) weights[i] = V::load(w + i * V::kLanes);
        for (int r = 0; r < kRows; ++r) {
            const V value = V::set(x[r * inputs + k]);
            for (int i = 0; i < kRegisters<V>; ++i) sums[r][i] = V::fma(weights[i], value, sums[r][i]);
        }
    }
    store_tile<V, kRows>(sums, task, panel, row);
}

// The weights of pair `pair` (0..3) of kStep inputs, register i of the panel.
template <typename D, int kBits>
typename D::Register load_pair(const int8_t* w, int pair, int i) {
    using V = typename D::Float;
    if constexpr (kBits == 8) return D::load_int8(w + 2 * (pair * kPanel<V> + i * V::kLanes));
    return D::load_int4(w + 4 * i * V::kLanes, pair);
}

template <typename V, int kBits>
const int8_t* quantized_panel(const LinearTask& task, int64_t panel) {
    const int64_t depth = (task.weight.inputs + kStep - 1) / kStep * kStep;
    return static_cast<const int8_t*>(task.weight.data) + panel * kPanel<V> * depth * kBits / 8;
}

// Quantized weights, float activations.
template <typename D, int kBits, int kRows>
void widened_tile(const LinearTask& task, int64_t panel, int64_t row) {
    using V = typename D::Float;
    const int64_t inputs = task.weight.inputs;
    const int8_t* w = quantized_panel<V, kBits>(task, panel);
    const float* x = task.x + row * inputs;
    V sums[kRows][kRegisters<V>];
    for (auto& row_sums : sums)
        for (V& sum : row_sums) sum = V::zero();
    for (int64_t start = 0; start < inputs; start += kStep, w += kStep * kPanel<V> * kBits / 8) {
        for (int pair = 0; pair < kStep / 2; ++pair) {
            const int64_t k = start + 2 * pair;
            V even[kRegisters<V>], odd[kRegisters<V>];
            for (int i = 0; i < kRegisters<V>; ++i) {
                const auto weights = load_pair<D, kBits>(w, pair, i);
                even[i] = D::even(weights);
                odd[i] = D::odd(weights);
            }
            for (int r = 0; r < kRows && k < inputs; ++r) {
                const V value = V::set(x[r * inputs + k]);
                for (int i = 0; i < kRegisters<V>; ++i) sums[r][i] = V::fma(even[i], value, sums[r][i]);
            }
            for (int r = 0; r < kRows && k + 1 < inputs; ++r) {
                const V value = V::set(x[r * inputs + k + 1]);
                for (int i = 0; i < kRegisters<V>; ++i) sums[r][i] = V::fma(odd[i], value, sums[r][i]);
            }
        }
    }
    store_tile<V, kRows>(sums, task, panel, row);
}

// The integer sums of inputs begin..end of one panel and kRows rows; returns the weights after them.
template <typename D, int kBits, int kRows>
const int8_t* sum_group(const QuantizedRows& q, int64_t row, int64_t begin, int64_t end, const int8_t* w,
                        typename D::Sums (&sums)[kRows][kRegisters<typename D::Float>]) {
    using V = typename D::Float;
    const int16_t* codes = q.codes + row * q.stride;
    for (auto& row_sums : sums)
        for (auto& sum : row_sums) sum = D::zero();
    for (int64_t k = begin; k < end; k += kStep, w += kStep * kPanel<V> * kBits / 8) {
        for (int pair = 0; pair < kStep / 2; ++pair) {
            typename D::Register weights[kRegisters<V>];
            for (int i = 0; i < kRegisters<V>; ++i) weights[i] = load_pair<D, kBits>(w, pair, i);
            for (int r = 0; r < kRows; ++r) {
                const auto x = D::broadcast(codes + r * q.stride + k + 2 * pair);
                for (int i = 0; i < kRegisters<V>; ++i) sums[r][i] = D::dot(sums[r][i], weights[i], x);
            }
        }
    }
    return w;
}

// Integer sums of one activation group, then one float multiply-add by the group's scale.
template <typename D, int kBits, int kRows>
void dot_tile(const LinearTask& task, int64_t panel, int64_t row) {
    using V = typename D::Float;
    const QuantizedRows& q = task.quantized;
    const int8_t* w = quantized_panel<V, kBits>(task, panel);
    V totals[kRows][kRegisters<V>];
    for (auto& row_totals : totals)
        for (V& total : row_totals) total = V::zero();
    for (int64_t g = 0; g < q.groups; ++g) {
        const int64_t end = (g + 1) * q.group < q.stride ? (g + 1) * q.group : q.stride;
        typename D::Sums sums[kRows][kRegisters<V>];
        w = sum_group<D, kBits, kRows>(q, row, g * q.group, end, w, sums);
        for (int r = 0; r < kRows; ++r) {
            const V scale = V::set(q.scales[(row + r) * q.groups + g]);
            for (int i = 0; i < kRegisters<V>; ++i)
                totals[r][i] = V::fma(D::to_float(sums[r][i]), scale, totals[r][i]);
        }
    }
    store_tile<V, kRows>(totals, task, panel, row);
}

template <typename D, int kRows>
void tile(const LinearTask& task, int64_t panel, int64_t row) {
    using V = typename D::Float;
    switch (task.weight.kind) {
        case WeightKind::Float32:
            return float_tile<V, float, kRows>(task, panel, row);
        case WeightKind::Bfloat16:
            return float_tile<V, uint16_t, kRows>(task, panel, row);
        case WeightKind::Int8:
            if (task.quantized.codes) return dot_tile<D, 8, kRows>(task, panel, row);
            return widened_tile<D, 8, kRows>(task, panel, row);
        case WeightKind::Int4:
            if (task.quantized.codes) return dot_tile<D, 4, kRows>(task, panel, row);
            return widened_tile<D, 4, kRows>(task, panel, row);
    }
}

// The last rows of a block, fewer than a tile.
template <typename D, int kRows>
void rest_tile(const LinearTask& task, int64_t panel, int64_t row, int64_t rows) {
    if constexpr (kRows > 0) {
        if (rows == kRows) return tile<D, kRows>(task, panel, row);
        rest_tile<D, kRows - 1>(task, panel, row, rows);
    }
}

// A share is a run of panels: one contiguous stream of weights. Rows are taken in blocks that stay in cache.
template <typename D>
void linear(const LinearTask& task, int part, int parts) {
    using V = typename D::Float;
    constexpr int64_t kTile = kRowTile<V>;
    const Range range = share((task.weight.outputs + kPanel<V> - 1) / kPanel<V>, part, parts);
    const int64_t row_bytes = task.quantized.codes ? 2 * task.quantized.stride : 4 * task.weight.inputs;
    const int64_t tiles = kRowBlockBytes / (row_bytes * kTile);
    const int64_t block = (tiles > 0 ? tiles : 1) * kTile;
    for (int64_t start = 0; start < task.rows; start += block) {
        const int64_t end = start + block < task.rows ? start + block : task.rows;
        for (int64_t panel = range.begin; panel < range.end; ++panel) {
            int64_t row = start;
            for (; row + kTile <= end; row += kTile) tile<D, kTile>(task, panel, row);
            rest_tile<D, kTile - 1>(task, panel, row, end - row);
        }
    }
}

inline float bfloat16_value(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

template <typename V>
float weight_at(const WeightView& weight, int64_t output, int64_t k) {
    const int64_t panel = output / kPanel<V>, lane = output % kPanel<V>;
    const int64_t at = panel * kPanel<V> * weight.inputs + k * kPanel<V> + lane;
    if (weight.kind == WeightKind::Float32) return static_cast<const float*>(weight.data)[at];
    if (weight.kind == WeightKind::Bfloat16)
        return bfloat16_value(static_cast<const uint16_t*>(weight.data)[at]);
    const int64_t steps = (weight.inputs + kStep - 1) / kStep, in_step = k % kStep;
    const int64_t step = (panel * steps + k / kStep) * kStep * kPanel<V>;
    const int8_t* codes = static_cast<const int8_t*>(weight.data);
    if (weight.kind == WeightKind::Int8)
        return float(codes[step + int8_offset(kPanel<V>, lane, in_step)]) * weight.scales[output];
    const uint8_t byte = uint8_t(codes[(step + int4_offset(lane, in_step)) / 2]);
    const int code = (int4_offset(lane, in_step) % 2 ? byte >> 4 : byte & 15) - kNibbleOffset;
    return float(code) * weight.scales[output];
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
