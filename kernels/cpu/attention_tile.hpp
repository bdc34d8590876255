// Query rows against one tile of kKeyTile keys: scores, weights, weighted values.
//
// The online softmax (Milakov and Gimelshein, 2018): a row keeps the maximum m of its scores so far, the sum of
// exp(score - m) and the sum of exp(score - m) * value; a tile that raises m to n rescales both sums by exp(m -
// n).
//
// Every score is one chain of multiply-adds over the dimensions, every weighted value one over the keys, both
// in rising order and only over keys that the row may see: a row does not depend on the other rows of its tile.
#pragma once

#include "exponential.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int kPages = kKeyTile / kPage;

template <typename V>
inline constexpr int kPageRegisters = kPage / V::kLanes;

template <typename V>
inline constexpr int kMicroRows = V::kLanes >= kPage ? 8 : 4;  // as many sums as cover the latency of an fma

// The pages of a tile (layout: attention_task.hpp); scales are null where T needs none.
template <typename T>
struct KeyTile {
    const T* keys[kPages];
    const T* values[kPages];
    const float* key_scales[kPages];
    const float* value_scales[kPages];
};

// The state of up to kRowTile query rows over one range of keys.
struct RowState {
    const float* queries;   // [rows][stride]
    float* sums_of_values;  // [kRowTile][stride]
    float* scores;          // [kRowTile][kKeyTile], then weights
    float* maxima;          // [kRowTile]
    float* sums;            // [kRowTile]
    int64_t stride;
    int64_t rows;
    int64_t visible[kRowTile];  // keys of this tile that each row sees; never falls from row to row

    // Keys that the last of `count` rows from `first` on sees: the most of them.
    int64_t last_visible(int64_t first, int64_t count) const {
        return visible[first + count <= rows ? first + count - 1 : rows - 1];
    }
};

// Scores of kRows rows from `row` on with the keys of one page. Rows past the last are computed and never read.
template <typename V, typename T, int kRows>
void score_page(const RowState& state, int64_t row, const T* keys, const float* scales, int64_t page) {
    V dots[kRows][kPageRegisters<V>];
    for (auto& row_dots : dots)
        for (V& dot : row_dots) dot = V::zero();
    const float* queries = state.queries + row * state.stride;
    for (int64_t d = 0; d < state.stride; ++d) {
        V key[kPageRegisters<V>];
        for (int i = 0; i < kPageRegisters<V>; ++i) key[i] = V::load(keys + d * kPage + i * V::kLanes);
        for (int r = 0; r < kRows; ++r) {
            const V query = V::set(queries[r * state.stride + d]);
            for (int i = 0; i < kPageRegisters<V>; ++i) dots[r][i] = V::fma(query, key[i], dots[r][i]);
        }
    }
    for (int i = 0; i < kPageRegisters<V>; ++i)
        for (int r = 0; r < kRows; ++r) {
            const V score = scales ? V::mul(dots[r][i], V::load(scales + i * V::kLanes)) : dots[r][i];
            score.store(state.scores + (row + r) * kKeyTile + page * kPage + i * V::kLanes);
        }
}

// Scores of a row to weights relative to its new maximum; rescales what the row summed so far.
template <typename V, typename T>
void weigh_row(const RowState& state, int64_t row, const KeyTile<T>& tile) {
    float* scores = state.scores + row * kKeyTile;
    const int64_t visible = state.visible[row];
    // Whole registers: the scores up to `end` that the row may not see become weights of 0.
    const int64_t end = (visible + V::kLanes - 1) / V::kLanes * V::kLanes;
    for (int64_t j = visible; j < end; ++j) scores[j] = -__builtin_inff();
    V largest = V::load(scores);
    for (int64_t j = V::kLanes; j < end; j += V::kLanes) largest = V::max(largest, V::load(scores + j));
    const float tile_maximum = largest.maximum();
    if (tile_maximum > state.maxima[row]) {
        float correction[V::kLanes];  // exp(-inf) = 0 for the first tile of a range: the sums are 0 anyway
        exponential(V::set(state.maxima[row] - tile_maximum)).store(correction);
        state.maxima[row] = tile_maximum;
        state.sums[row] *= correction[0];
        float* values = state.sums_of_values + row * state.stride;
        for (int64_t d = 0; d < state.stride; d += V::kLanes)
            V::mul(V::load(values + d), V::set(correction[0])).store(values + d);
    }
    V sum = V::zero();
    const V shift = V::set(-state.maxima[row]);
    for (int64_t j = 0; j < end; j += V::kLanes) {
        V weight = exponential(V::add(V::load(scores + j), shift));
        sum = V::add(sum, weight);
        // The scale of a value's slot goes into its weight, after the weight has been counted.
        const float* scales = tile.value_scales[j / kPage];
        if (scales) weight = V::mul(weight, V::load(scales + j % kPage));
        weight.store(scores + j);
    }
    state.sums[row] += sum.sum();
}

// Adds the weighted values of keys begin .. end - 1 to kRows rows; the sums of a page of dimensions stay in
// registers for all these keys.
template <typename V, typename T, int kRows>
void add_values(const RowState& state, int64_t row, const KeyTile<T>& tile, int64_t begin, int64_t end) {
    for (int64_t d = 0; d < state.stride; d += kPage) {
        float* out = state.sums_of_values + row * state.stride + d;
        V totals[kRows][kPageRegisters<V>];
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < kPageRegisters<V>; ++i)
                totals[r][i] = V::load(out + r * state.stride + i * V::kLanes);
        for (int64_t start = begin; start < end;) {
            const int64_t page = start / kPage, stop = (page + 1) * kPage < end ? (page + 1) * kPage : end;
            // Key j of the tile is slot j - page * kPage of its page, which has kPage items per slot.
            const T* values = tile.values[page] + d * kPage - page * kPage * kPage;
            for (int64_t j = start; j < stop; ++j) {
                V value[kPageRegisters<V>];
                for (int i = 0; i < kPageRegisters<V>; ++i)
                    value[i] = V::load(values + j * kPage + i * V::kLanes);
                for (int r = 0; r < kRows; ++r) {
                    const V weight = V::set(state.scores[(row + r) * kKeyTile + j]);
                    for (int i = 0; i < kPageRegisters<V>; ++i)
                        totals[r][i] = V::fma(weight, value[i], totals[r][i]);
                }
            }
            start = stop;
        }
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < kPageRegisters<V>; ++i)
                totals[r][i].store(out + r * state.stride + i * V::kLanes);
    }
}

// Rows see ever more keys, so those that see none of this tile come first and are skipped. Scores are computed
// for kMicroRows rows at a time and for all keys that the last of them sees; values are added to them together
// as far as the first of them sees, and beyond that to each row alone.
template <typename V, typename T>
void attend_tile(const RowState& state, const KeyTile<T>& tile) {
    int64_t first = 0;
    while (first < state.rows && state.visible[first] == 0) ++first;
    const int64_t start = first / kMicroRows<V> * kMicroRows<V>;  // scratch has room for whole micro tiles
    for (int64_t row = start; row < state.rows; row += kMicroRows<V>) {
        const int64_t pages = (state.last_visible(row, kMicroRows<V>) + kPage - 1) / kPage;
        for (int64_t page = 0; page < pages; ++page)
            score_page<V, T, kMicroRows<V>>(state, row, tile.keys[page], tile.key_scales[page], page);
    }
    for (int64_t row = first; row < state.rows; ++row) weigh_row<V, T>(state, row, tile);
    for (int64_t row = start; row < state.rows; row += kMicroRows<V>) {
        const int64_t together = state.visible[row];
        if (together) add_values<V, T, kMicroRows<V>>(state, row, tile, 0, together);
        for (int64_t r = row; r < row + kMicroRows<V> && r < state.rows; ++r)
            if (state.visible[r] > together) add_values<V, T, 1>(state, r, tile, together, state.visible[r]);
    }
}

}  // namespace ernie::ERNIE_VARIANT
