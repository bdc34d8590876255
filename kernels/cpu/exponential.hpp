// exp on registers.
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

}  // namespace ernie::ERNIE_VARIANT
