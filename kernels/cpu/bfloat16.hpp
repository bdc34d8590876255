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
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;  // no branch: loops become vector code
    return is_nan ? 0x7FC0 : uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float from_bfloat16(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

}  // namespace ernie::ERNIE_VARIANT
