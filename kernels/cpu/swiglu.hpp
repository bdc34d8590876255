// silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "exponential.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename V>
void swiglu(const SwigluTask& task) {
    for (int64_t row = 0; row < task.rows; ++row) {
        const float *gate = task.gate + row * task.gate_stride, *up = task.up + row * task.up_stride;
        float* y = task.y + row * task.stride;
        for (int64_t k = 0; k < task.width; k += V::kLanes) {
            const int64_t left = task.width - k;
            const V g = load_partial<V>(gate + k, left);
            const V denominator = V::add(V::set(1.0f), exponential(V::mul(g, V::set(-1.0f))));
            store_partial(V::mul(V::div(g, denominator), load_partial<V>(up + k, left)), y + k, left);
        }
    }
}

}  // namespace ernie::ERNIE_VARIANT
