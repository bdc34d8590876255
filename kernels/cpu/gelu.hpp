// Gelus, in place.
#pragma once

#include "exponential.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// x / (1 + exp(-z))
template <typename V>
V times_sigmoid(V x, V z) {
    return V::div(x, V::add(V::set(1.0f), exponential(V::mul(z, V::set(-1.0f)))));
}

// x * normal_cdf(x), by the upper tail of |x|: Abramowitz and Stegun 7.1.26 with z = |x| / sqrt(2), whose
// absolute error is below 1e-7.
template <typename V>
V gelu_erf(V x) {
    const V z = V::mul(V::abs(x), V::set(0.70710678f));
    const V t = V::div(V::set(1.0f), V::fma(V::set(0.3275911f), z, V::set(1.0f)));
    V p = V::set(0.5f * 1.061405429f);
    p = V::fma(p, t, V::set(0.5f * -1.453152027f));
    p = V::fma(p, t, V::set(0.5f * 1.421413741f));
    p = V::fma(p, t, V::set(0.5f * -0.284496736f));
    p = V::fma(p, t, V::set(0.5f * 0.254829592f));
    const V tail = V::mul(V::mul(p, t), exponential(V::mul(V::mul(z, z), V::set(-1.0f))));
    const V lower = V::mul(x, tail);
    return V::select_less(x, 0.0f, lower, V::fma(lower, V::set(-1.0f), x));
}

template <GeluKind kKind, typename V>
V gelu_of(V x) {
    if constexpr (kKind == GeluKind::Erf) return gelu_erf(x);
    if constexpr (kKind == GeluKind::Quick) return times_sigmoid(x, V::mul(x, V::set(1.702f)));
    // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
    const V square = V::fma(V::mul(x, x), V::set(0.0713548163f), V::set(1.59576912f));
    return times_sigmoid(x, V::mul(x, square));
}

template <GeluKind kKind, typename V>
void gelu_range(float* x, Range range) {
    for (int64_t k = range.begin; k < range.end; k += V::kLanes) {
        const int64_t left = range.end - k;
        store_partial(gelu_of<kKind>(load_partial<V>(x + k, left)), x + k, left);
    }
}

template <typename V>
void gelu(const GeluTask& task, int part, int parts) {
    const Range range = share(task.count, part, parts);
    switch (task.kind) {
        case GeluKind::Erf:
            return gelu_range<GeluKind::Erf, V>(task.x, range);
        case GeluKind::Tanh:
            return gelu_range<GeluKind::Tanh, V>(task.x, range);
        case GeluKind::Quick:
            return gelu_range<GeluKind::Quick, V>(task.x, range);
    }
}

}  // namespace ernie::ERNIE_VARIANT
