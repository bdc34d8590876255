// y = x W^T over panels of outputs. Each output is one chain of multiply-adds over k in rising order, however
// many rows the tile has: a row's result does not depend on its neighbours.
//
//   panel   kPanel outputs = kRegisters registers; its weights are one contiguous stream
//   tile    kLinearRows rows x one panel: the sums stay in registers for all k
//   block   rows whose activations stay in the second cache for all panels of a share
//
// Per k (or pair of inputs) a tile loads the panel's weights once, widens them if they are quantized, and
// multiplies them by one broadcast activation of each row.
#pragma once

#include "bfloat16_products.hpp"
#include "integer_dot.hpp"

namespace ernie::ERNIE_VARIANT {

// Sums, weights and one activation fit the 16 registers of SSE and AVX2, the 32 of AVX-512.
template <typename V>
inline constexpr int kRegisters = V::kLanes == 8 ? 2 : 4;  // registers per panel
template <typename V>
inline constexpr int kLinearRows = V::kLanes == 16  ? 4
                                   : V::kLanes == 8 ? 6
                                                    : 2;
template <typename V>
inline constexpr int kPanel = kRegisters<V> * V::kLanes;

// Activations of a block: they stay in the second cache for all panels.
inline constexpr int64_t kRowBlockBytes = 256 << 10;

// How far ahead of their use weights are asked for: processors' own prefetching leaves a part of the bandwidth
// (docs/performance.md).
inline constexpr int64_t kAheadBytes = 6 << 10;

// For the first rows: they bring the weights from memory, the others find them in cache. Addresses past the end
// do no harm.
template <int64_t kBytes>
void prefetch_weights(const void* w) {
    for (int64_t line = 0; line < kBytes; line += 64)
        __builtin_prefetch(static_cast<const char*>(w) + kAheadBytes + line, 0, 2);
}

template <typename V, int kCount>
void store_outputs(const V (&values)[kCount], const float* scales, const float* bias, float* y, int64_t count) {
    for (int i = 0; i < kCount; ++i) {
        const int64_t first = i * V::kLanes, left = count - first;
        if (left <= 0) return;
        V value = scales ? V::mul(values[i], V::load(scales + first)) : values[i];
        if (bias) value = V::add(value, load_partial<V>(bias + first, left));
        store_partial(value, y + first, left);
    }
}

template <typename V, int kRows>
void store_tile(const V (&sums)[kRows][kRegisters<V>], const LinearTask& task, int64_t panel, int64_t row) {
    const int64_t outputs = task.weight.outputs, first = panel * kPanel<V>;
    const float* scales = task.weight.scales ? task.weight.scales + first : nullptr;
    const float* bias = task.bias ? task.bias + first : nullptr;
    for (int r = 0; r < kRows; ++r)
        store_outputs(sums[r], scales, bias, task.y + (row + r) * outputs + first, outputs - first);
}

template <typename V, int kRows>
void float_tile(const LinearTask& task, int64_t panel, int64_t row) {
    const int64_t inputs = task.weight.inputs;
    const float* w = static_cast<const float*>(task.weight.data) + panel * kPanel<V> * inputs;
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

// The first kSteps steps of one pair of inputs for all sums of a tile. An odd K ends with half a pair: its
// second weight is padding, and unrounded rows have no second activation to read.
template <typename P, int kSteps, int kRows>
void add_pair(const uint16_t* w, const typename P::Item* x, int64_t stride,
              typename P::Float (&sums)[kRows][kRegisters<typename P::Float>]) {
    using V = typename P::Float;
    for (int step = 0; step < kSteps; ++step) {
        decltype(P::load(w, step)) weights[kRegisters<V>];
        for (int i = 0; i < kRegisters<V>; ++i) weights[i] = P::load(w + 2 * i * V::kLanes, step);
        for (int r = 0; r < kRows; ++r) {
            const auto value = P::broadcast(x + r * stride, step);
            for (int i = 0; i < kRegisters<V>; ++i) sums[r][i] = P::dot(sums[r][i], weights[i], value);
        }
    }
}

// Bfloat16 weights, and rows of `stride` items of P, of which the first `depth` count.
template <typename P, int kRows>
void pair_tile(const LinearTask& task, const typename P::Item* x, int64_t stride, int64_t depth, int64_t panel,
               int64_t row) {
    using V = typename P::Float;
    const int64_t padded = (task.weight.inputs + kDepth - 1) / kDepth * kDepth;
    const uint16_t* w = static_cast<const uint16_t*>(task.weight.data) + panel * kPanel<V> * padded;
    x += row * stride;
    V sums[kRows][kRegisters<V>];
    for (auto& row_sums : sums)
        for (V& sum : row_sums) sum = V::zero();
    int64_t k = 0;
    for (; k + 1 < depth; k += 2, w += 2 * kPanel<V>) {
        if (row == 0) prefetch_weights<2 * kPanel<V> * sizeof(uint16_t)>(w);
        add_pair<P, P::kSteps, kRows>(w, x + k, stride, sums);
    }
    if (k < depth) add_pair<P, 1, kRows>(w, x + k, stride, sums);  // unrounded rows are not padded
    store_tile<V, kRows>(sums, task, panel, row);
}

template <typename P, int kRows>
void bfloat16_tile(const LinearTask& task, int64_t panel, int64_t row) {
    const RoundedRows& rounded = task.rounded;
    const int64_t inputs = task.weight.inputs;
    if (!rounded.items)
        return pair_tile<Float32Pairs<typename P::Float>, kRows>(task, task.x, inputs, inputs, panel, row);
    const auto* items = static_cast<const typename P::Item*>(rounded.items);
    pair_tile<P, kRows>(task, items, rounded.stride, rounded.stride, panel, row);
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

// The scales of a panel for the group of input k; null where an output has one for all inputs.
template <typename V>
const uint16_t* group_scales(const WeightView& weight, int64_t panel, int64_t k) {
    if (!weight.group_scales) return nullptr;
    return weight.group_scales + (panel * groups_of(weight.inputs) + k / kScaleGroup) * kPanel<V>;
}

// Adds integer sums times the scale of each row, and of each output where the group has such scales. Inlined by
// order: a call would take the sums out of their registers for every group.
template <typename D, int kRows, typename V = typename D::Float>
[[gnu::always_inline]] inline void add_group(const typename D::Sums (&sums)[kRows][kRegisters<V>],
                                             const float* scales, int64_t stride, const uint16_t* of_outputs,
                                             V (&totals)[kRows][kRegisters<V>]) {
    for (int r = 0; r < kRows && !of_outputs; ++r) {
        const V scale = V::set(scales[r * stride]);
        for (int i = 0; i < kRegisters<V>; ++i)
            totals[r][i] = V::fma(D::to_float(sums[r][i]), scale, totals[r][i]);
    }
    for (int r = 0; r < kRows && of_outputs; ++r) {
        const V scale = V::set(scales[r * stride]);
        for (int i = 0; i < kRegisters<V>; ++i) {
            const V factor = V::mul(V::load(of_outputs + i * V::kLanes), scale);
            totals[r][i] = V::fma(D::to_float(sums[r][i]), factor, totals[r][i]);
        }
    }
}

// Quantized weights, float activations: codes become floats on their way into the tile, and the scale of an
// output multiplies its sum at the end; one of a group, the codes. K is padded in the weights but not in x,
// hence the bounds on k.
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
        const uint16_t* scales = group_scales<V>(task.weight, panel, start);
        for (int pair = 0; pair < kStep / 2; ++pair) {
            const int64_t k = start + 2 * pair;
            V even[kRegisters<V>], odd[kRegisters<V>];
            for (int i = 0; i < kRegisters<V>; ++i) {
                const auto weights = load_pair<D, kBits>(w, pair, i);
                even[i] = D::even(weights);
                odd[i] = D::odd(weights);
                if (!scales) continue;
                const V scale = V::load(scales + i * V::kLanes);
                even[i] = V::mul(even[i], scale);
                odd[i] = V::mul(odd[i], scale);
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
    const int16_t* codes = static_cast<const int16_t*>(q.codes) + row * q.stride;
    for (auto& row_sums : sums)
        for (auto& sum : row_sums) sum = D::zero();
    constexpr int64_t kStepBytes = kStep * kPanel<V> * kBits / 8;
    for (int64_t k = begin; k < end; k += kStep, w += kStepBytes) {
        if (row == 0) prefetch_weights<kStepBytes>(w);
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

// Inputs whose products with a row share all scales.
inline int64_t inputs_of_sum(const LinearTask& task) {
    return task.weight.group_scales && task.quantized.group > kScaleGroup ? kScaleGroup : task.quantized.group;
}

// Integer sums of one group, exact in int32, then one float multiply-add by its scales.
template <typename D, int kBits, int kRows>
void dot_tile(const LinearTask& task, int64_t panel, int64_t row) {
    using V = typename D::Float;
    const QuantizedRows& q = task.quantized;
    const int8_t* w = quantized_panel<V, kBits>(task, panel);
    V totals[kRows][kRegisters<V>];
    for (auto& row_totals : totals)
        for (V& total : row_totals) total = V::zero();
    const int64_t step = inputs_of_sum(task),
                  depth = q.groups * q.group < q.stride ? q.groups * q.group : q.stride;
    for (int64_t start = 0; start < depth; start += step) {
        const int64_t end = start + step < depth ? start + step : depth;
        typename D::Sums sums[kRows][kRegisters<V>];
        w = sum_group<D, kBits, kRows>(q, row, start, end, w, sums);
        const float* scales = q.scales + row * q.groups + start / q.group;
        add_group<D, kRows>(sums, scales, q.groups, group_scales<V>(task.weight, panel, start), totals);
    }
    store_tile<V, kRows>(totals, task, panel, row);
}

template <typename D, typename P, int kRows>
void tile(const LinearTask& task, int64_t panel, int64_t row) {
    switch (task.weight.kind) {
        case WeightKind::Float32:
            return float_tile<typename D::Float, kRows>(task, panel, row);
        case WeightKind::Bfloat16:
            return bfloat16_tile<P, kRows>(task, panel, row);
        case WeightKind::Int8:
            if (task.quantized.codes) return dot_tile<D, 8, kRows>(task, panel, row);
            return widened_tile<D, 8, kRows>(task, panel, row);
        case WeightKind::Int4:
            if (task.quantized.codes) return dot_tile<D, 4, kRows>(task, panel, row);
            return widened_tile<D, 4, kRows>(task, panel, row);
    }
}

// The number of rows of a tile, as a type.
template <int kRows>
struct Rows {};

// The last rows of a block, fewer than a tile: tries the tiles of kRows, kRows - 1, ... rows at compile time,
// so that every number of rows has a tile whose sums are in registers.
template <int kRows, typename Tile>
void rest_tile(const Tile& tile, int64_t panel, int64_t row, int64_t rows) {
    if constexpr (kRows > 0) {
        if (rows == kRows) return tile(Rows<kRows>(), panel, row);
        rest_tile<kRows - 1>(tile, panel, row, rows);
    }
}

// Calls tile(Rows, panel, row) for all of a share: a run of panels, one contiguous stream of weights. Rows of
// `row_bytes` are taken in blocks that stay in cache.
template <typename V, int kTile, typename Tile>
void each_tile(const LinearTask& task, int64_t row_bytes, int part, int parts, const Tile& tile) {
    const Range range = share((task.weight.outputs + kPanel<V> - 1) / kPanel<V>, part, parts);
    const int64_t tiles = kRowBlockBytes / (row_bytes * kTile);
    const int64_t block = (tiles > 0 ? tiles : 1) * kTile;
    for (int64_t start = 0; start < task.rows; start += block) {
        const int64_t end = start + block < task.rows ? start + block : task.rows;
        for (int64_t panel = range.begin; panel < range.end; ++panel) {
            int64_t row = start;
            for (; row + kTile <= end; row += kTile) tile(Rows<kTile>(), panel, row);
            rest_tile<kTile - 1>(tile, panel, row, end - row);
        }
    }
}

template <typename Item>
int64_t row_bytes(const LinearTask& task) {
    if (task.quantized.codes) return int64_t(sizeof(int16_t)) * task.quantized.stride;
    if (task.rounded.items) return int64_t(sizeof(Item)) * task.rounded.stride;
    return int64_t(sizeof(float)) * task.weight.inputs;
}

// Not inlined: no arithmetic may move out of the caller's FlushDenormals.
template <typename D, typename P>
[[gnu::noinline]] void multiply(const LinearTask& task, int part, int parts) {
    using V = typename D::Float;
    each_tile<V, kLinearRows<V>>(
        task, row_bytes<typename P::Item>(task), part, parts,
        [&]<int kRows>(Rows<kRows>, int64_t panel, int64_t row) { tile<D, P, kRows>(task, panel, row); });
}

template <typename D, typename P>
void pair_linear(const LinearTask& task, int part, int parts) {
    if (!task.rounded.items) return multiply<D, P>(task, part, parts);
    const FlushDenormals flush;
    multiply<D, P>(task, part, parts);
}

}  // namespace ernie::ERNIE_VARIANT
