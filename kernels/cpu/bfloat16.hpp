// bfloat16: the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace ernie::ERNIE_VARIANT {

// Half to even; NaN stays NaN.
inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return 0x7FC0;
    return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float from_bfloat16(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

}  // namespace ernie::ERNIE_VARIANT
