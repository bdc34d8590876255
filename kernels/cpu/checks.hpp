// Checks of sizes and indices before an op writes anything, and memory that ops keep between calls.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace ernie {

inline void expect(const char* name, int64_t value, int64_t expected) {
    if (value == expected) return;
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                                std::to_string(expected));
}

inline void expect_below(const char* name, int64_t value, int64_t limit) {
    if (value >= 0 && value < limit) return;
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(value) + ", expected 0 to " +
                                std::to_string(limit - 1));
}

}  // namespace ernie
