// Causal attention over the paged cache: units of query rows against ranges of keys (attention_task.hpp).
//
// Every row sees its keys in ranges of kKeyRange from position 0, each with an online softmax of its own over
// tiles of kKeyTile; the ranges are joined in rising order. So a result depends neither on chunks, batch and
// threads nor on the cache's block size.
#pragma once

#include <type_traits>

#include "attention_tile.hpp"
#include "cache_append.hpp"

namespace ernie::ERNIE_VARIANT {

// A row's partial softmax: weighted sum of values, maximum of scores, sum of weights (0: no keys).
struct Partial {
    float* values;  // [stride]
    float* maximum;
    float* sum;
};

// total = total joined with part: both are rescaled to the larger maximum. Exact if one of them has no keys.
template <typename V>
void join_partials(const Partial& total, const Partial& part, int64_t stride) {
    if (*part.sum == 0) return;
    const float maximum = *part.maximum > *total.maximum ? *part.maximum : *total.maximum;
    float of_total[V::kLanes], of_part[V::kLanes];
    exponential(V::set(*total.maximum - maximum)).store(of_total);
    exponential(V::set(*part.maximum - maximum)).store(of_part);
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

// The attention of one unit; T is how the cache stores an item.
template <typename V, typename T>
class UnitPass {
  public:
    UnitPass(const AttentionTask& task, const AttentionUnit& unit, float* scratch)
        : task_(task), unit_(unit), cache_(task.cache), rows_(unit.end - unit.begin) {
        const int64_t group = task.group(), tile = kKeyTile * cache_.stride;
        state_.queries =
            task.queries + ((unit.kv_head * task.rows + unit.first_token) * group + unit.begin) * cache_.stride;
        state_.stride = cache_.stride;
        state_.rows = rows_;
        state_.sums_of_values = take(scratch, kRowTile * cache_.stride);
        totals_.values = take(scratch, kRowTile * cache_.stride);
        state_.scores = take(scratch, kRowTile * kKeyTile);
        gathered_keys_ = reinterpret_cast<T*>(take(scratch, tile));
        gathered_values_ = reinterpret_cast<T*>(take(scratch, tile));
        float_keys_ = take(scratch, tile);
        float_values_ = take(scratch, tile);
        gathered_key_scales_ = take(scratch, kKeyTile);
        gathered_value_scales_ = take(scratch, kKeyTile);
        state_.maxima = take(scratch, kRowTile);
        state_.sums = take(scratch, kRowTile);
        totals_.maximum = take(scratch, kRowTile);
        totals_.sum = take(scratch, kRowTile);
        for (int64_t row = 0; row < rows_; ++row)
            keys_of_row_[row] = unit.context + (unit.begin + row) / group + 1;
    }

    void run() {
        clear(totals_, rows_, cache_.stride);
        for (int64_t range = unit_.first_range; range < unit_.last_range; ++range) {
            // Each range begins anew, whether this unit has one range or all: so the cut changes no bit.
            clear(row_partial(0), rows_, cache_.stride);
            const int64_t end = smaller((range + 1) * kKeyRange, keys_of_row_[rows_ - 1]);
            for (int64_t start = range * kKeyRange; start < end; start += kKeyTile) attend_keys(start);
            for (int64_t row = 0; row < rows_; ++row)
                join_partials<V>(row_total(row), row_partial(row), cache_.stride);
        }
        for (int64_t row = 0; row < rows_; ++row) finish_row(row);
    }

  private:
    static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

    static float* take(float*& scratch, int64_t count) {
        float* taken = scratch;
        scratch += count;
        return taken;
    }

    Partial row_partial(int64_t row) const {
        return {state_.sums_of_values + row * cache_.stride, state_.maxima + row, state_.sums + row};
    }

    Partial row_total(int64_t row) const {
        return {totals_.values + row * cache_.stride, totals_.maximum + row, totals_.sum + row};
    }

    void attend_keys(int64_t start) {
        for (int64_t row = 0; row < rows_; ++row) {
            const int64_t left = keys_of_row_[row] - start;  // rises from row to row: causal
            state_.visible[row] = left < 0 ? 0 : smaller(left, kKeyTile);
        }
        const int64_t count = state_.visible[rows_ - 1];
        KeyTile<T> tile{};
        for (int64_t page = 0; page * kPage < count; ++page) find_page(start, page, count, tile);
        // Widening pays if each item is used by more than two micro tiles of rows.
        if constexpr (!std::is_same_v<T, float>)
            if (rows_ > 2 * kMicroRows<V>) return attend_tile<V>(state_, as_floats(tile, count));
        attend_tile<V>(state_, tile);
    }

    // Blocks of whole pages are read where they are, others are gathered slot by slot.
    void find_page(int64_t start, int64_t page, int64_t count, KeyTile<T>& tile) {
        const int64_t position = start + page * kPage;
        if (cache_.block_size % kPage == 0) {
            const int64_t at = locate_slot(task_, unit_.sequence, position, unit_.kv_head).page;
            tile.keys[page] = static_cast<const T*>(cache_.keys) + at * kPage * cache_.stride;
            tile.values[page] = static_cast<const T*>(cache_.values) + at * kPage * cache_.stride;
            if (cache_.key_scales) {
                tile.key_scales[page] = cache_.key_scales + at * kPage;
                tile.value_scales[page] = cache_.value_scales + at * kPage;
            }
            return;
        }
        tile.keys[page] = gathered_keys_ + page * kPage * cache_.stride;
        tile.values[page] = gathered_values_ + page * kPage * cache_.stride;
        if (cache_.key_scales) {
            tile.key_scales[page] = gathered_key_scales_ + page * kPage;
            tile.value_scales[page] = gathered_value_scales_ + page * kPage;
        }
        for (int64_t lane = 0; lane < smaller(kPage, count - page * kPage); ++lane)
            gather_slot(locate_slot(task_, unit_.sequence, position + lane, unit_.kv_head), page, lane);
    }

    void gather_slot(SlotPlace from, int64_t page, int64_t lane) {
        const int64_t size = kPage * cache_.stride;
        const T* keys = static_cast<const T*>(cache_.keys) + from.page * size + from.lane;
        for (int64_t d = 0; d < cache_.stride; ++d)
            gathered_keys_[page * size + d * kPage + lane] = keys[d * kPage];
        const T* values = static_cast<const T*>(cache_.values) + from.page * size + from.lane * kPage;
        for (int64_t d = 0; d < size; d += kPage * kPage)
            std::memcpy(gathered_values_ + page * size + d + lane * kPage, values + d, kPage * sizeof(T));
        if (!cache_.key_scales) return;
        gathered_key_scales_[page * kPage + lane] = cache_.key_scales[from.page * kPage + from.lane];
        gathered_value_scales_[page * kPage + lane] = cache_.value_scales[from.page * kPage + from.lane];
    }

    // Many rows read each item many times: widen it once.
    KeyTile<float> as_floats(const KeyTile<T>& tile, int64_t count) {
        const int64_t size = kPage * cache_.stride;
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
        for (int64_t i = 0; i < kPage * cache_.stride; i += V::kLanes) V::load(items + i).store(out + i);
        return out;
    }

    void finish_row(int64_t row) {
        const Partial total = row_total(row);
        if (unit_.partial < 0)
            return write_row(task_, unit_.first_token, unit_.kv_head, unit_.begin + row, total);
        float* entry = task_.partials + (unit_.partial + row) * (cache_.stride + 2);
        std::memcpy(entry, total.values, size_t(cache_.stride) * sizeof(float));
        entry[cache_.stride] = *total.maximum;
        entry[cache_.stride + 1] = *total.sum;
    }

    const AttentionTask& task_;
    const AttentionUnit& unit_;
    const CacheView& cache_;
    int64_t rows_;
    RowState state_;
    Partial totals_;
    T* gathered_keys_;
    T* gathered_values_;
    float* gathered_key_scales_;
    float* gathered_value_scales_;
    float* float_keys_;
    float* float_values_;
    int64_t keys_of_row_[kRowTile];
};

// Threads take the next unit when they are done with one; units differ too much in cost for equal shares.
template <typename V>
void attend(const AttentionTask& task, int part, int) {
    float* scratch = task.scratch + part * attention_scratch(task.cache.stride);
    for (int64_t i; (i = task.next_unit->fetch_add(1, std::memory_order_relaxed)) < task.num_units;) {
        switch (task.cache.kind) {
            case CacheKind::Float32:
                UnitPass<V, float>(task, task.units[i], scratch).run();
                break;
            case CacheKind::Bfloat16:
                UnitPass<V, uint16_t>(task, task.units[i], scratch).run();
                break;
            case CacheKind::Int8:
                UnitPass<V, int8_t>(task, task.units[i], scratch).run();
                break;
        }
    }
}

template <typename V>
void join(const AttentionTask& task, int part, int parts) {
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
                join_partials<V>(total, {entry, entry + stride, entry + stride + 1}, stride);
            }
            write_row(task, join.first_token, join.kv_head, row, total);
        }
    }
}

}  // namespace ernie::ERNIE_VARIANT
