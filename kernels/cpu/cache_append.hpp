// Rotates queries and keys, and writes keys and values into the paged cache as its kind stores them.
#pragma once

#include "bfloat16.hpp"
#include "rotary.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// Where the cache keeps one slot of one kv head.
struct SlotPlace {
    int64_t page;  // of this kv head
    int64_t lane;
};

inline SlotPlace locate_slot(const AttentionTask& task, int64_t sequence, int64_t position, int64_t kv_head) {
    const CacheView& cache = task.cache;
    const int64_t block = task.block_tables[sequence * task.table_width + position / cache.block_size];
    const int64_t slot = block * cache.block_size + position % cache.block_size;
    return {slot / kPage * cache.kv_heads + kv_head, slot % kPage};
}

// The scales of a head: its slot's own, written at `at`, or those of its channels.
struct HeadScales {
    float* slots;
    int64_t at;
    const float* channels;
};

inline int8_t to_int8(float value, float scale) {
    const float code = __builtin_nearbyintf(value / scale);
    return int8_t(code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code);
}

// What one head becomes in the cache, item by item. kHidesNan: see hide_nan.
struct Float32Store {
    using Item = float;
    static constexpr bool kHidesNan = false;
    Float32Store(const float*, int64_t, HeadScales) {}
    Item operator()(float value, int64_t) const { return value; }
};

struct Bfloat16Store {
    using Item = uint16_t;
    static constexpr bool kHidesNan = true;
    Bfloat16Store(const float*, int64_t, HeadScales) {}
    Item operator()(float value, int64_t) const { return to_bfloat16(value); }
};

// Codes with one scale, absmax / 127. A scale that is 0 or not finite has codes 0: the head reads as 0 or NaN.
struct Int8Store {
    using Item = int8_t;
    static constexpr bool kHidesNan = false;
    Int8Store(const float* x, int64_t count, HeadScales scales) {
        float largest = 0;
        for (int64_t d = 0; d < count; ++d) {
            const float size = __builtin_fabsf(x[d]);
            largest = largest >= size ? largest : size;  // NaN stays
            if (largest != largest) break;
        }
        scales.slots[scales.at] = divisor = largest / 127.0f;
        is_usable = divisor > 0 && divisor < __builtin_inff();
    }
    Item operator()(float value, int64_t) const { return is_usable ? to_int8(value, divisor) : Item(0); }
    float divisor;
    bool is_usable;
};

// Codes with a static scale for each channel; 0 where that is 0, and for NaN.
struct StaticInt8Store {
    using Item = int8_t;
    static constexpr bool kHidesNan = false;
    StaticInt8Store(const float*, int64_t, HeadScales scales) : channels(scales.channels) {}
    Item operator()(float value, int64_t d) const {
        return channels[d] > 0 && value == value ? to_int8(value, channels[d]) : Item(0);
    }
    const float* channels;
};

inline const float* of_head(const float* channels, const CacheView& cache, int64_t kv_head) {
    return channels ? channels + kv_head * cache.head_dim : nullptr;
}

// Where a head's items are made before they go to their places in the cache.
inline constexpr int64_t kItemBlock = 8 * kPage;

// Calls put(d, items) for every kPage items of a head, d their first dimension; zeros follow the last.
template <typename Store, typename Put>
void make_items(const Store& store, const float* x, int64_t count, const Put& put) {
    typename Store::Item items[kItemBlock] = {};
    for (int64_t start = 0; start < count; start += kItemBlock) {
        const int64_t size = count - start < kItemBlock ? count - start : kItemBlock;
        for (int64_t d = 0; d < size; ++d) items[d] = store(x[start + d], start + d);
        for (int64_t d = size; d % kPage; ++d) items[d] = 0;
        for (int64_t d = 0; d < size; d += kPage) put(start + d, items + d);
    }
}

template <typename Store>
void store_key(const CacheView& cache, const float* x, SlotPlace place, const float* channels) {
    using Item = typename Store::Item;
    const Store store(x, cache.head_dim, {cache.key_scales, place.page * kPage + place.lane, channels});
    Item* out = static_cast<Item*>(cache.keys) + place.page * cache.stride * kPage + place.lane;
    make_items(store, x, cache.head_dim, [&](int64_t d, const Item* items) {
        for (int64_t i = 0; i < kPage; ++i) out[(d + i) * kPage] = items[i];
    });
}

template <typename Store>
void store_value(const CacheView& cache, const float* x, SlotPlace place, const float* channels) {
    using Item = typename Store::Item;
    const Store store(x, cache.head_dim, {cache.value_scales, place.page * kPage + place.lane, channels});
    Item* out = static_cast<Item*>(cache.values) + (place.page * cache.stride + place.lane) * kPage;
    make_items(store, x, cache.head_dim, [&](int64_t d, const Item* items) {
        std::memcpy(out + d * kPage, items, kPage * sizeof(Item));
    });
}

// Attention multiplies values that a row may not see by 0, which NaN and infinity survive. So a value that has
// one is kept as zeros (at `zeros`), and its key as NaN: rows that see it are NaN.
inline const float* hide_nan(const float* value, int64_t count, float* key, float* zeros) {
    bool is_finite = true;
    for (int64_t d = 0; d < count; ++d) is_finite &= (to_bfloat16(value[d]) & 0x7F80) != 0x7F80;
    if (is_finite) return value;
    key[0] = __builtin_nanf("");
    std::memset(zeros, 0, size_t(count) * sizeof(float));
    return zeros;
}

template <typename Store>
void append_rows(const AttentionTask& task, float* head, Range range) {
    const CacheView& cache = task.cache;
    const int64_t group = task.group(), width = (task.heads + 2 * cache.kv_heads) * cache.head_dim;
    const float scale = 1.0f / __builtin_sqrtf(float(cache.head_dim));
    for (int64_t row = range.begin; row < range.end; ++row) {
        const PositionAngles angles = angles_of(task, row);
        const float* x = task.qkv + row * width;
        for (int64_t h = 0; h < task.heads; ++h, x += cache.head_dim) {
            const int64_t at = (h / group * task.rows + row) * group + h % group;
            float* query = task.queries + at * cache.stride;
            rotate_head(angles, x, scale, query);
            if (const float* channels = of_head(cache.key_channels, cache, h / group))
                for (int64_t d = 0; d < cache.head_dim; ++d) query[d] *= channels[d];
            for (int64_t d = cache.head_dim; d < cache.stride; ++d) query[d] = 0;
        }
        for (int64_t h = 0; h < cache.kv_heads; ++h, x += cache.head_dim) {
            const SlotPlace place = locate_slot(task, task.row_sequences[row], task.row_slots[row], h);
            rotate_head(angles, x, 1.0f, head);
            const float* value = x + cache.kv_heads * cache.head_dim;
            if (Store::kHidesNan) value = hide_nan(value, cache.head_dim, head, head + cache.head_dim);
            store_key<Store>(cache, head, place, of_head(cache.key_channels, cache, h));
            store_value<Store>(cache, value, place, of_head(cache.value_channels, cache, h));
        }
    }
}

template <typename V>
void append(const AttentionTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    float* head = task.scratch + part * attention_scratch(task.cache.stride);
    switch (task.cache.kind) {
        case CacheKind::Float32:
            return append_rows<Float32Store>(task, head, range);
        case CacheKind::Bfloat16:
            return append_rows<Bfloat16Store>(task, head, range);
        case CacheKind::Int8:
            if (task.cache.key_channels) return append_rows<StaticInt8Store>(task, head, range);
            return append_rows<Int8Store>(task, head, range);
    }
}

}  // namespace ernie::ERNIE_VARIANT
