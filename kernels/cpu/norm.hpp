// RMSNorm, alone or after adding to the residual stream. A row's sum runs over k in rising order, lane by lane.
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename V>
void norm_row(const float* x, const NormTask& task, float* y) {
    V squares = V::zero();
    for (int64_t k = 0; k < task.width; k += V::kLanes) {
        const V value = load_partial<V>(x + k, task.width - k);
        squares = V::fma(value, value, squares);
    }
    const float mean = squares.sum() / float(task.width);
    const V factor = V::set(1.0f / __builtin_sqrtf(mean + task.epsilon));
    for (int64_t k = 0; k < task.width; k += V::kLanes) {
        const int64_t left = task.width - k;
        const V scaled = V::mul(load_partial<V>(x + k, left), factor);
        store_partial(V::mul(scaled, load_partial<V>(task.weight + k, left)), y + k, left);
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
        norm_row<V>(x, task, task.y + row * task.width);
    }
}

}  // namespace ernie::ERNIE_VARIANT
