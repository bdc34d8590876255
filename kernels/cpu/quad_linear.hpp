// y = x W^T of int8 codes and weights in quads (quads.hpp), in the tiles and blocks of linear.hpp.
#pragma once

#include "linear.hpp"
#include "quads.hpp"

namespace ernie::ERNIE_VARIANT {

// What an unsigned weight has more than its code.
constexpr int32_t offset_of(int bits) { return bits == 8 ? kByteOffset : kNibbleOffset; }

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

// Integer sums of one activation group, exact in int32, then one float multiply-add by its scales. A group of
// weights that has scales is one or more of these groups. A row has kHalves rows of bytes.
template <typename Q, int kBits, int kHalves, int kRows>
void quad_tile(const LinearTask& task, int64_t panel, int64_t row) {
    using V = typename Q::Float;
    constexpr int64_t kStepBytes = kStep * kPanel<V> * kBits / 8;
    const QuantizedRows& q = task.quantized;
    const int8_t* w = static_cast<const int8_t*>(task.weight.data) + panel * (q.stride / kStep) * kStepBytes;
    const int8_t* x = static_cast<const int8_t*>(q.codes) + kHalves * row * q.stride;
    V totals[kRows][kRegisters<V>];
    for (auto& row_totals : totals)
        for (V& total : row_totals) total = V::zero();
    for (int64_t g = 0; g < q.groups; ++g) {
        typename Q::Sums halves[kRows * kHalves][kRegisters<V>], sums[kRows][kRegisters<V>];
        for (int r = 0; r < kRows; ++r) {
            const int32_t start = -offset_of(kBits) * q.sums[(row + r) * q.groups + g];
            for (int half = 0; half < kHalves; ++half)
                for (auto& sum : halves[r * kHalves + half]) sum = Q::set(half == kHalves - 1 ? start : 0);
        }
        const int64_t end = (g + 1) * q.group < q.stride ? (g + 1) * q.group : q.stride;
        for (int64_t k = g * q.group; k < end; k += kStep, w += kStepBytes) {
            if (row == 0) prefetch_weights<kStepBytes>(w);
            add_step<Q, kBits, kRows * kHalves>(w, x + k, q.stride, halves);
        }
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
