// Causal attention over the paged cache: units of query rows against ranges of keys (attention_task.hpp).
//
// Every row sees its keys in ranges of kKeyRange from position 0, each with an online softmax of its own over
// tiles of keys; the ranges are joined in rising order. So a result depends neither on chunks, batch and
// threads nor on the cache's block size.
#pragma once

#include <type_traits>

#include "attention_pages.hpp"
#include "attention_tile.hpp"
#include "bfloat16_attention.hpp"

namespace ernie::ERNIE_VARIANT {

// A row's partial softmax: weighted sum of values, maximum of scores, sum of weights (0: no keys).
struct Partial {
    float* values;  // [stride]
    float* maximum;
    float* sum;
};

// total = total joined with part: both are rescaled to the larger maximum. Exact if one of them has no keys.
template <typename V, typename Power>
void join_partials(const Partial& total, const Partial& part, int64_t stride) {
    if (*part.sum == 0) return;
    const float maximum = *part.maximum > *total.maximum ? *part.maximum : *total.maximum;
    float of_total[V::kLanes], of_part[V::kLanes];
    Power::of(V::set(*total.maximum - maximum)).store(of_total);
    Power::of(V::set(*part.maximum - maximum)).store(of_part);
    *total.maximum = maximum;
    *total.sum = *total.sum * of_total[0] + *part.sum * of_part[0];
    for (int64_t d = 0; d < stride; d += V::kLanes) {
        const V scaled = V::mul(V::load(total.values + d), V::set(of_total[0]));
        V::fma(V::load(part.values + d), V::set(of_part[0]), scaled).store(total.values + d);
    }
}

inline void clear(const Partial& partial, int64_t rows, int64_t stride) {
    for (int64_t i = 0; i < rows * stride; ++i) partial.values[i] = 0;
    for (int64_t i = 0; i < rows; ++i) {
        partial.maximum[i] = -__builtin_inff();
        partial.sum[i] = 0;
    }
}

inline void write_row(const AttentionTask& task, int64_t first_token, int64_t kv_head, int64_t row,
                      const Partial& total) {
    const int64_t group = task.group();
    const int64_t head = (first_token + row / group) * task.heads + kv_head * group + row % group;
    float* y = task.y + head * task.cache.head_dim;
    for (int64_t d = 0; d < task.cache.head_dim; ++d) y[d] = total.values[d] / *total.sum;
    if (const float* channels = of_head(task.cache.value_channels, task.cache, kv_head))
        for (int64_t d = 0; d < task.cache.head_dim; ++d) y[d] *= channels[d];
}

// Tiles of kKeyTile keys in float32 arithmetic; T is how the cache stores an item.
template <typename V, typename T>
class FloatTiles {
  public:
    using Power = NaturalPower;
    struct Session {};
    static constexpr int64_t kKeys = kKeyTile;

    FloatTiles(const AttentionTask& task, const AttentionUnit& unit, RowState& state, float* scratch)
        : state_(state), pages_(task, unit, kPages, scratch) {
        state.scores = take(scratch, kRowTile * kKeyTile);
        float_keys_ = take(scratch, kKeyTile * state.stride);
        float_values_ = take(scratch, kKeyTile * state.stride);
    }

    void attend(int64_t start, int64_t count) {
        KeyTile<T> tile{};
        for (int64_t i = 0; i * kPage < count; ++i) {
            if (start + i * kPage + kKeys < pages_.end()) pages_.prefetch(start + i * kPage + kKeys);
            const Page<T> page = pages_.find(start + i * kPage, count - i * kPage, i);
            tile.keys[i] = page.keys;
            tile.values[i] = page.values;
            tile.key_scales[i] = page.key_scales;
            tile.value_scales[i] = page.value_scales;
        }
        // Widening pays if each item is used by more than two micro tiles of rows.
        if constexpr (!std::is_same_v<T, float>)
            if (state_.rows > 2 * kMicroRows<V>) return attend_tile<V>(state_, as_floats(tile, count));
        attend_tile<V>(state_, tile);
    }

  private:
    // Many rows read each item many times: widen it once.
    KeyTile<float> as_floats(const KeyTile<T>& tile, int64_t count) {
        const int64_t size = kPage * state_.stride;
        KeyTile<float> floats{};
        for (int64_t page = 0; page * kPage < count; ++page) {
            floats.keys[page] = widen(tile.keys[page], float_keys_ + page * size);
            floats.values[page] = widen(tile.values[page], float_values_ + page * size);
            floats.key_scales[page] = tile.key_scales[page];
            floats.value_scales[page] = tile.value_scales[page];
        }
        return floats;
    }

    const float* widen(const T* items, float* out) const {
        for (int64_t i = 0; i < kPage * state_.stride; i += V::kLanes) V::load(items + i).store(out + i);
        return out;
    }

    const RowState& state_;
    PageFinder<T> pages_;
    float* float_keys_;
    float* float_values_;
};

// The attention of one unit; Tiles computes a tile of keys.
template <typename V, typename Tiles>
class UnitPass {
  public:
    UnitPass(const AttentionTask& task, const AttentionUnit& unit, float* scratch)
        : task_(task),
          unit_(unit),
          stride_(task.cache.stride),
          rows_(unit.end - unit.begin),
          state_(take_state(scratch)),
          totals_{take(scratch, kRowTile * stride_), take(scratch, kRowTile), take(scratch, kRowTile)},
          tiles_(task, unit, state_, scratch) {
        for (int64_t row = 0; row < rows_; ++row)
            keys_of_row_[row] = unit.context + (unit.begin + row) / task.group() + 1;
    }

    void run() {
        clear(totals_, rows_, stride_);
        for (int64_t range = unit_.first_range; range < unit_.last_range; ++range) {
            // Each range begins anew, whether this unit has one range or all: so the cut changes no bit.
            clear(row_partial(0), rows_, stride_);
            const int64_t end = smaller((range + 1) * kKeyRange, keys_of_row_[rows_ - 1]);
            for (int64_t start = range * kKeyRange; start < end; start += Tiles::kKeys) attend_keys(start);
            for (int64_t row = 0; row < rows_; ++row)
                join_partials<V, typename Tiles::Power>(row_total(row), row_partial(row), stride_);
        }
        for (int64_t row = 0; row < rows_; ++row) finish_row(row);
    }

  private:
    RowState take_state(float*& scratch) const {
        RowState state;
        const int64_t group = task_.group();
        state.queries =
            task_.queries + ((unit_.kv_head * task_.rows + unit_.first_token) * group + unit_.begin) * stride_;
        state.stride = stride_;
        state.rows = rows_;
        state.sums_of_values = take(scratch, kRowTile * stride_);
        state.maxima = take(scratch, kRowTile);
        state.sums = take(scratch, kRowTile);
        return state;
    }

    Partial row_partial(int64_t row) const {
        return {state_.sums_of_values + row * stride_, state_.maxima + row, state_.sums + row};
    }

    Partial row_total(int64_t row) const {
        return {totals_.values + row * stride_, totals_.maximum + row, totals_.sum + row};
    }

    void attend_keys(int64_t start) {
        for (int64_t row = 0; row < rows_; ++row) {
            const int64_t left = keys_of_row_[row] - start;  // rises from row to row: causal
            state_.visible[row] = left < 0 ? 0 : smaller(left, Tiles::kKeys);
        }
        tiles_.attend(start, state_.visible[rows_ - 1]);
    }

    void finish_row(int64_t row) {
        const Partial total = row_total(row);
        if (unit_.partial < 0)
            return write_row(task_, unit_.first_token, unit_.kv_head, unit_.begin + row, total);
        float* entry = task_.partials + (unit_.partial + row) * (stride_ + 2);
        std::memcpy(entry, total.values, size_t(stride_) * sizeof(float));
        entry[stride_] = *total.maximum;
        entry[stride_ + 1] = *total.sum;
    }

    const AttentionTask& task_;
    const AttentionUnit& unit_;
    const int64_t stride_;
    const int64_t rows_;
    RowState state_;
    Partial totals_;
    Tiles tiles_;
    int64_t keys_of_row_[kRowTile];
};

// Threads take the next unit when they are done with one; units differ too much in cost for equal shares.
template <typename V, typename Tiles>
void attend_units(const AttentionTask& task, int part) {
    float* scratch = task.scratch + part * attention_scratch(task.cache.stride);
    [[maybe_unused]] const typename Tiles::Session session;
    for (int64_t i; (i = task.next_unit->fetch_add(1, std::memory_order_relaxed)) < task.num_units;)
        UnitPass<V, Tiles>(task, task.units[i], scratch).run();
}

// P multiplies pairs of bfloat16 numbers. Where one step of it does (vdpbf16ps, or what stands for it in
// tests), caches that are not of float32 are attended with it. The numbers of rows and keys play no part.
template <typename P>
inline constexpr bool kRoundsAttention = P::kSteps == 1;

template <typename V, typename P, typename T>
using CacheTiles = std::conditional_t<kRoundsAttention<P>, PairTiles<PairDots<P>, T>, FloatTiles<V, T>>;

template <typename V, typename P>
void attend(const AttentionTask& task, int part, int) {
    switch (task.cache.kind) {
        case CacheKind::Float32:
            return attend_units<V, FloatTiles<V, float>>(task, part);
        case CacheKind::Bfloat16:
            return attend_units<V, CacheTiles<V, P, uint16_t>>(task, part);
        case CacheKind::Int8:
            return attend_units<V, CacheTiles<V, P, int8_t>>(task, part);
    }
}

template <typename V, typename Power>
void join_all(const AttentionTask& task, int part, int parts) {
    const int64_t stride = task.cache.stride;
    float* scratch = task.scratch + part * attention_scratch(stride);
    const Partial total{scratch, scratch + stride, scratch + stride + 1};
    const Range range = share(task.num_joins, part, parts);
    for (int64_t i = range.begin; i < range.end; ++i) {
        const AttentionJoin& join = task.joins[i];
        for (int64_t row = 0; row < join.rows; ++row) {
            clear(total, 1, stride);
            for (int64_t k = 0; k < join.ranges; ++k) {
                float* entry = task.partials + (join.partial + k * join.rows + row) * (stride + 2);
                join_partials<V, Power>(total, {entry, entry + stride, entry + stride + 1}, stride);
            }
            write_row(task, join.first_token, join.kv_head, row, total);
        }
    }
}

template <typename V, typename P>
void join(const AttentionTask& task, int part, int parts) {
    if (kRoundsAttention<P> && task.cache.kind != CacheKind::Float32)
        return join_all<V, PowerOfTwo>(task, part, parts);
    join_all<V, NaturalPower>(task, part, parts);
}

}  // namespace ernie::ERNIE_VARIANT
