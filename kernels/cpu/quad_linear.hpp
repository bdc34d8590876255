// y = x W^T of int8 codes and weights in quads (quads.hpp), in the tiles and blocks of linear.hpp.
#pragma once

#include "linear.hpp"
#include "quads.hpp"

namespace ernie::ERNIE_VARIANT {

// What an unsigned weight has more than its code.
constexpr int32_t offset_of(int bits) { return bits == 8 ? kByteOffset : kNibbleOffset; }

template <typename Q>
inline constexpr int64_t kQuadPanel = Q::kIsNarrow ? Q::Float::kLanes : kPanel<typename Q::Float>;

// kStep inputs for all sums of a tile.
template <typename Q, int kBits, int kRows>
void add_step(const int8_t* w, const int8_t* x, int64_t stride,
              typename Q::Sums (&sums)[kRows][kRegisters<typename Q::Float>]) {
    using V = typename Q::Float;
    for (int first = 0; first < kStep; first += Q::kInputs) {
        typename Q::Weights weights[kRegisters<V>];
        for (int i = 0; i < kRegisters<V>; ++i) {
            if constexpr (kBits == 8)
                weights[i] = Q::load_int8(w + first * kPanel<V> + 4 * i * V::kLanes);
            else
                weights[i] = Q::load_int4(w + 4 * i * V::kLanes, first / 4);
        }
        for (int r = 0; r < kRows; ++r) {
            const auto value = Q::broadcast(x + r * stride + first);
            for (int i = 0; i < kRegisters<V>; ++i) sums[r][i] = Q::dot(sums[r][i], weights[i], value);
        }
    }
}

// Adds the products of `inputs` inputs, from w and x on. Inlined by order, as add_group is.
template <typename Q, int kBits, int kRows>
[[gnu::always_inline]] inline void add_inputs(const int8_t* w, const int8_t* x, int64_t stride, int64_t inputs,
                                              bool is_in_memory,
                                              typename Q::Sums (&sums)[kRows][kRegisters<typename Q::Float>]) {
    constexpr int64_t kStepBytes = kStep * kPanel<typename Q::Float> * kBits / 8;
    for (int64_t k = 0; k < inputs; k += kStep, w += kStepBytes) {
        if (is_in_memory) prefetch_weights<kStepBytes>(w);
        add_step<Q, kBits, kRows>(w, x + k, stride, sums);
    }
}

// The same of narrow panels, one after another, `depth` inputs each. The sums of a panel are kChains chains
// while they grow: one alone would wait for itself.
template <typename Q, int kBits, int kRows>
void add_narrow(const int8_t* w, int64_t depth, const int8_t* x, int64_t stride, int64_t inputs,
                bool is_in_memory, typename Q::Sums (&sums)[kRows][kRegisters<typename Q::Float>]) {
    constexpr int kChains = 4;
    constexpr int64_t kQuadBytes = 4 * kQuadPanel<Q>, kStepBytes = kChains * kQuadBytes * kBits / 8;
    for (int i = 0; i < kRegisters<typename Q::Float>; ++i, w += depth * kQuadPanel<Q> * kBits / 8) {
        typename Q::Sums chains[kRows][kChains];
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kChains; ++c) chains[r][c] = c ? Q::set(0) : sums[r][i];
        const int8_t* next = w;
        for (int64_t k = 0; k < inputs; k += 4 * kChains, next += kStepBytes) {
            if (is_in_memory) prefetch_weights<kStepBytes>(next);
            for (int c = 0; c < kChains; ++c) {
                typename Q::Weights weights;
                if constexpr (kBits == 8)
                    weights = Q::load_int8(next + c * kQuadBytes);
                else
                    weights = Q::load_int4(next + c / 2 * kQuadBytes, c % 2);
                for (int r = 0; r < kRows; ++r)
                    chains[r][c] = Q::dot(chains[r][c], weights, Q::broadcast(x + r * stride + k + 4 * c));
            }
        }
        for (int r = 0; r < kRows; ++r)
            sums[r][i] = Q::add(Q::add(chains[r][0], chains[r][1]), Q::add(chains[r][2], chains[r][3]));
    }
}

// Integer sums of one activation group, exact in int32, then one float multiply-add by its scales. A group of
// weights that has scales is one or more of these groups. A row has kHalves rows of bytes.
template <typename Q, int kBits, int kHalves, int kRows>
void quad_tile(const LinearTask& task, int64_t panel, int64_t row) {
    using V = typename Q::Float;
    const QuantizedRows& q = task.quantized;
    const int8_t* panel_codes =
        static_cast<const int8_t*>(task.weight.data) + panel * q.stride * kPanel<V> * kBits / 8;
    const int8_t* x = static_cast<const int8_t*>(q.codes) + kHalves * row * q.stride;
    V totals[kRows][kRegisters<V>];
    for (auto& row_totals : totals)
        for (V& total : row_totals) total = V::zero();
    for (int64_t g = 0; g < q.groups; ++g) {
        typename Q::Sums halves[kRows * kHalves][kRegisters<V>], sums[kRows][kRegisters<V>];
        for (int r = 0; r < kRows; ++r) {
            const int32_t first = -offset_of(kBits) * q.sums[(row + r) * q.groups + g];
            for (int half = 0; half < kHalves; ++half)
                for (auto& sum : halves[r * kHalves + half]) sum = Q::set(half == kHalves - 1 ? first : 0);
        }
        const int64_t start = g * q.group, left = q.stride - start, inputs = left < q.group ? left : q.group;
        const int8_t* w = panel_codes + start * kQuadPanel<Q> * kBits / 8;
        if constexpr (Q::kIsNarrow)
            add_narrow<Q, kBits, kRows * kHalves>(w, q.stride, x + start, q.stride, inputs, row == 0, halves);
        else
            add_inputs<Q, kBits, kRows * kHalves>(w, x + start, q.stride, inputs, row == 0, halves);
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < kRegisters<V>; ++i) {
                if constexpr (kHalves == 2)
                    sums[r][i] = Q::join(halves[2 * r][i], halves[2 * r + 1][i]);
                else
                    sums[r][i] = halves[r][i];
            }
        const uint16_t* of_outputs = group_scales<V>(task.weight, panel, g * q.group);
        add_group<Q, kRows>(sums, q.scales + row * q.groups + g, q.groups, of_outputs, totals);
    }
    store_tile<V, kRows>(totals, task, panel, row);
}

template <typename Q, int kBits, int kHalves>
void quad_tiles(const LinearTask& task, int part, int parts) {
    each_tile<typename Q::Float, Q::kRows / kHalves>(task, kHalves * task.quantized.stride, part, parts,
                                                     [&]<int kRows>(Rows<kRows>, int64_t panel, int64_t row) {
                                                         quad_tile<Q, kBits, kHalves, kRows>(task, panel, row);
                                                     });
}

template <typename Q>
void quad_linear(const LinearTask& task, int part, int parts) {
    const bool is_int4 = task.weight.kind == WeightKind::Int4;
    if constexpr (Q::kHasHalves)
        if (task.quantized.halves == 2)
            return is_int4 ? quad_tiles<Q, 4, 2>(task, part, parts) : quad_tiles<Q, 8, 2>(task, part, parts);
    if (is_int4) return quad_tiles<Q, 4, 1>(task, part, parts);
    if constexpr (Q::kHasInt8) quad_tiles<Q, 8, 1>(task, part, parts);
}

}  // namespace ernie::ERNIE_VARIANT
