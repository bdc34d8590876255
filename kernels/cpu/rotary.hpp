// Rotates queries and keys by their positions; appends keys and values to the paged cache.
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// out[0..head_dim) = rotated x, zeros up to stride.
inline void rotate_head(const AttentionTask& task, const float* x, int64_t position, float* out) {
    const int64_t half = task.head_dim / 2;
    const float* cosines = task.cosines + position * half;
    const float* sines = task.sines + position * half;
    for (int64_t i = 0; i < half; ++i) {
        const int64_t first = task.interleaved ? 2 * i : i, second = task.interleaved ? 2 * i + 1 : i + half;
        const float a = x[first], b = x[second];
        out[first] = a * cosines[i] - b * sines[i];
        out[second] = b * cosines[i] + a * sines[i];
    }
    for (int64_t d = task.head_dim; d < task.stride; ++d) out[d] = 0;
}

inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return 0x7FC0;
    return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline void store_head(const AttentionTask& task, const float* x, void* cache, int64_t at) {
    if (!task.is_bfloat16) {
        std::memcpy(static_cast<float*>(cache) + at, x, size_t(task.stride) * 4);
        return;
    }
    uint16_t* out = static_cast<uint16_t*>(cache) + at;
    for (int64_t d = 0; d < task.stride; ++d) out[d] = to_bfloat16(x[d]);
}

// Index of the values of one head of token `slot` of a sequence.
inline int64_t cache_index(const AttentionTask& task, int64_t sequence, int64_t slot, int64_t kv_head) {
    const int64_t block = task.block_tables[sequence * task.table_width + slot / task.block_size];
    return ((block * task.block_size + slot % task.block_size) * task.kv_heads + kv_head) * task.stride;
}

template <typename V>
void append(const AttentionTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    const int64_t width = (task.heads + 2 * task.kv_heads) * task.head_dim;
    const float scale = 1.0f / __builtin_sqrtf(float(task.head_dim));
    float* head = task.scratch + part * task.stride;
    for (int64_t row = range.begin; row < range.end; ++row) {
        const float* x = task.qkv + row * width;
        for (int64_t h = 0; h < task.heads; ++h, x += task.head_dim) {
            float* query = task.queries + (row * task.heads + h) * task.stride;
            rotate_head(task, x, task.positions[row], query);
            for (int64_t d = 0; d < task.head_dim; ++d) query[d] *= scale;
        }
        for (int64_t h = 0; h < task.kv_heads; ++h, x += task.head_dim) {
            const int64_t at = cache_index(task, task.row_sequences[row], task.row_slots[row], h);
            rotate_head(task, x, task.positions[row], head);
            store_head(task, head, task.keys, at);
            std::memcpy(head, x + task.kv_heads * task.head_dim, size_t(task.head_dim) * 4);
            store_head(task, head, task.values, at);
        }
    }
}

}  // namespace ernie::ERNIE_VARIANT
