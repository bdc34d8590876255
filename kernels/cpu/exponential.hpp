// exp and powers of two on registers.
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// exp(x), relative error below 2e-7; 0 below -87, exp(88) above 88, NaN of NaN. Cody-Waite reduction to
// |r| < 0.35, where the polynomial of degree 6 that begins with 1 + r and has the least relative error is off
// by 3e-9.
template <typename V>
V exponential(V x) {
    // The order of operands keeps NaN: of (number, NaN), max and min return the second.
    const V bounded = V::min(V::set(88.0f), V::max(V::set(-87.0f), x));
    const V n = V::round(V::mul(bounded, V::set(1.44269504f)));
    V r = V::fma(n, V::set(-0.693359375f), bounded);
    r = V::fma(n, V::set(2.12194440e-4f), r);
    V p = V::set(1.381457100034518e-3f);
    p = V::fma(p, r, V::set(8.368730287974458e-3f));
    p = V::fma(p, r, V::set(4.166838934481698e-2f));
    p = V::fma(p, r, V::set(1.666652052120185e-1f));
    p = V::fma(p, r, V::set(4.999999344035380e-1f));
    p = V::fma(p, r, V::set(1.0f));
    p = V::fma(p, r, V::set(1.0f));
    return V::select_less(x, -87.0f, V::zero(), V::mul(p, V::power_of_two(n)));
}

struct NaturalPower {
    template <typename V>
    static V of(V x) {
        return exponential(x);
    }
};

// 2 ** x for x <= 0, relative error below 1e-5: of weights that are rounded to eight bits. 0 below -126 (with
// AVX-512: of minus infinity), NaN of NaN.
struct PowerOfTwo {
    template <typename V>
    static V of(V x) {
        const V bounded = V::max(V::set(-126.0f), x);  // of (number, NaN) max returns the second
        const V n = V::round(bounded);
        const V p = fraction(V::fma(n, V::set(-1.0f), bounded));
        return V::select_less(x, -126.0f, V::zero(), V::mul(p, V::power_of_two(n)));
    }

#if defined(__AVX512F__)
    static Avx512 of(Avx512 x) {
        const Avx512 n = Avx512::round(x);
        return {_mm512_scalef_ps(fraction(Avx512{_mm512_sub_ps(x.v, n.v)}).v, n.v)};
    }
#endif

  private:
    template <typename V>
    static V fraction(V r) {
        V p = V::fma(V::set(9.618129e-3f), r, V::set(5.550411e-2f));
        p = V::fma(p, r, V::set(2.402265e-1f));
        p = V::fma(p, r, V::set(6.931472e-1f));
        return V::fma(p, r, V::set(1.0f));
    }
};

}  // namespace ernie::ERNIE_VARIANT
