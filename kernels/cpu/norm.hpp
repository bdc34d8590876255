// RMSNorm or LayerNorm, alone or after adding to the residual stream. A row's sums run over k in rising order,
// lane by lane; RMSNorm's in kChains chains of registers, so that no addition waits for the last one.
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename V>
void norm_row(const float* x, const NormTask& task, float* y) {
    constexpr int kChains = 4;
    V squares[kChains] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (int64_t k = 0; k < task.width; k += kChains * V::kLanes)
        for (int i = 0; i < kChains; ++i) {
            const int64_t place = k + i * V::kLanes;
            const V value = load_partial<V>(x + place, task.width - place);
            squares[i] = V::fma(value, value, squares[i]);
        }
    const V total = V::add(V::add(squares[0], squares[1]), V::add(squares[2], squares[3]));
    const float mean = total.sum() / float(task.width);
    const V factor = V::set(1.0f / __builtin_sqrtf(mean + task.epsilon));
    for (int64_t k = 0; k < task.width; k += V::kLanes) {
        const int64_t left = task.width - k;
        const V scaled = V::mul(load_partial<V>(x + k, left), factor);
        store_partial(V::mul(scaled, load_partial<V>(task.weight + k, left)), y + k, left);
    }
}

// value - mean in the first `count` lanes, 0 in those that pad a row.
template <typename V>
V centered(V value, V mean, int64_t count) {
    const V difference = V::fma(mean, V::set(-1.0f), value);
    if (count >= V::kLanes) return difference;
    float lanes[V::kLanes];
    difference.store(lanes);
    for (int64_t i = count; i < V::kLanes; ++i) lanes[i] = 0;
    return V::load(lanes);
}

template <typename V>
void layer_norm_row(const float* x, const NormTask& task, float* y) {
    V total = V::zero(), squares = V::zero();
    for (int64_t k = 0; k < task.width; k += V::kLanes)
        total = V::add(total, load_partial<V>(x + k, task.width - k));
    const V mean = V::set(total.sum() / float(task.width));
    for (int64_t k = 0; k < task.width; k += V::kLanes) {
        const int64_t left = task.width - k;
        const V value = centered(load_partial<V>(x + k, left), mean, left);
        squares = V::fma(value, value, squares);
    }
    const V factor = V::set(1.0f / __builtin_sqrtf(squares.sum() / float(task.width) + task.epsilon));
    for (int64_t k = 0; k < task.width; k += V::kLanes) {
        const int64_t left = task.width - k;
        const V scaled = V::mul(centered(load_partial<V>(x + k, left), mean, left), factor);
        const V shift = load_partial<V>(task.bias + k, left);
        store_partial(V::fma(scaled, load_partial<V>(task.weight + k, left), shift), y + k, left);
    }
}

template <typename V>
void norm(const NormTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    for (int64_t row = range.begin; row < range.end; ++row) {
        const float* x = task.x + row * task.width;
        if (task.delta) {
            float* residual = task.residual + row * task.width;
            const float* delta = task.delta + row * task.width;
            for (int64_t k = 0; k < task.width; ++k) residual[k] = x[k] + delta[k];
            x = residual;
        }
        float* y = task.y + row * task.width;
        task.bias ? layer_norm_row<V>(x, task, y) : norm_row<V>(x, task, y);
    }
}

}  // namespace ernie::ERNIE_VARIANT
