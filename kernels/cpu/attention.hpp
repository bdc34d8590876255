// Causal attention of single rows over the paged cache. Keys are visited in tiles of kKeyTile from position 0
// with an online softmax, so the result depends neither on chunks nor on the cache's block size.
#pragma once

#include "rotary.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// kHeads query heads of one row that read the same kv head.
template <typename V, typename T, int kHeads>
struct HeadTile {
    const AttentionTask& task;
    const float* queries;  // [kHeads][stride]
    float* outputs;        // [kHeads][stride]
    float maxima[kHeads];
    float sums[kHeads];
    float scores[kHeads][kKeyTile];

    HeadTile(const AttentionTask& t, const float* q, float* out) : task(t), queries(q), outputs(out) {
        for (int h = 0; h < kHeads; ++h) {
            maxima[h] = -__builtin_inff();
            sums[h] = 0;
        }
        for (int64_t i = 0; i < kHeads * task.stride; ++i) outputs[i] = 0;
    }

    void score(const T* const* keys, int64_t count) {
        for (int64_t j = 0; j < count; ++j) {
            V dots[kHeads];
            for (V& dot : dots) dot = V::zero();
            for (int64_t d = 0; d < task.stride; d += V::kLanes) {
                const V key = V::load(keys[j] + d);
                for (int h = 0; h < kHeads; ++h)
                    dots[h] = V::fma(V::load(queries + h * task.stride + d), key, dots[h]);
            }
            for (int h = 0; h < kHeads; ++h) scores[h][j] = dots[h].sum();
        }
        for (int h = 0; h < kHeads; ++h)
            for (int64_t j = count; j < kKeyTile; ++j) scores[h][j] = -__builtin_inff();
    }

    // Turns scores into weights relative to the new maximum; rescales what was summed so far.
    void normalize() {
        for (int h = 0; h < kHeads; ++h) {
            V maximum = V::load(scores[h]);
            for (int64_t j = V::kLanes; j < kKeyTile; j += V::kLanes)
                maximum = V::max(maximum, V::load(scores[h] + j));
            const float tile_maximum = maximum.maximum();
            const float new_maximum = tile_maximum > maxima[h] ? tile_maximum : maxima[h];
            float correction[V::kLanes];
            exponential(V::set(maxima[h] - new_maximum)).store(correction);
            maxima[h] = new_maximum;
            V sum = V::zero();
            for (int64_t j = 0; j < kKeyTile; j += V::kLanes) {
                const V weight = exponential(V::add(V::load(scores[h] + j), V::set(-new_maximum)));
                weight.store(scores[h] + j);
                sum = V::add(sum, weight);
            }
            sums[h] = sums[h] * correction[0] + sum.sum();
            const V factor = V::set(correction[0]);
            for (int64_t d = 0; d < task.stride; d += V::kLanes) {
                float* output = outputs + h * task.stride + d;
                V::mul(V::load(output), factor).store(output);
            }
        }
    }

    void accumulate(const T* const* values, int64_t count) {
        for (int64_t d = 0; d < task.stride; d += V::kLanes) {
            V totals[kHeads];
            for (int h = 0; h < kHeads; ++h) totals[h] = V::load(outputs + h * task.stride + d);
            for (int64_t j = 0; j < count; ++j) {
                const V value = V::load(values[j] + d);
                for (int h = 0; h < kHeads; ++h) totals[h] = V::fma(V::set(scores[h][j]), value, totals[h]);
            }
            for (int h = 0; h < kHeads; ++h) totals[h].store(outputs + h * task.stride + d);
        }
    }
};

template <typename V, typename T, int kHeads>
void attend_heads(const AttentionTask& task, int64_t row, int64_t head, float* outputs) {
    const int64_t kv_head = head / (task.heads / task.kv_heads);
    const int64_t sequence = task.row_sequences[row], total = task.row_slots[row] + 1;
    HeadTile<V, T, kHeads> tile(task, task.queries + (row * task.heads + head) * task.stride, outputs);
    for (int64_t start = 0; start < total; start += kKeyTile) {
        const int64_t count = total - start < kKeyTile ? total - start : kKeyTile;
        const T* keys[kKeyTile];
        const T* values[kKeyTile];
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = cache_index(task, sequence, start + j, kv_head);
            keys[j] = static_cast<const T*>(task.keys) + at;
            values[j] = static_cast<const T*>(task.values) + at;
        }
        tile.score(keys, count);
        tile.normalize();
        tile.accumulate(values, count);
    }
    for (int h = 0; h < kHeads; ++h) {
        float* y = task.y + (row * task.heads + head + h) * task.head_dim;
        for (int64_t d = 0; d < task.head_dim; ++d) y[d] = outputs[h * task.stride + d] / tile.sums[h];
    }
}

template <typename V, typename T>
void attend_group(const AttentionTask& task, int64_t row, int64_t kv_head, float* outputs) {
    const int64_t group = task.heads / task.kv_heads;
    int64_t head = kv_head * group;
    const int64_t end = head + group;
    for (; head + kHeadTile <= end; head += kHeadTile) attend_heads<V, T, kHeadTile>(task, row, head, outputs);
    for (; head < end; ++head) attend_heads<V, T, 1>(task, row, head, outputs);
}

// Parts take (row, kv head) pairs in turn: later rows of a prompt are longer.
template <typename V>
void attend(const AttentionTask& task, int part, int parts) {
    float* outputs = task.scratch + part * kHeadTile * task.stride;
    for (int64_t unit = part; unit < task.rows * task.kv_heads; unit += parts) {
        const int64_t row = unit / task.kv_heads, kv_head = unit % task.kv_heads;
        if (task.is_bfloat16)
            attend_group<V, uint16_t>(task, row, kv_head, outputs);
        else
            attend_group<V, float>(task, row, kv_head, outputs);
    }
}

}  // namespace ernie::ERNIE_VARIANT
