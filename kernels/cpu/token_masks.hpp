// Excludes tokens from rows of logits; ernie_kernels/sampling.py defines it.
//
// Most words of a mask allow all of their tokens or none: the former are not read, the latter only written.
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int64_t kWordBits = 32;

inline void exclude(float* x, int64_t n, uint32_t allowed) {
    for (int64_t i = 0; i < n; ++i) x[i] = allowed >> i & 1 ? x[i] : -__builtin_inff();
}

inline void mask_row(float* x, int64_t n, const uint32_t* words, int64_t count) {
    const int64_t whole = n / kWordBits < count ? n / kWordBits : count;
    for (int64_t i = 0; i < whole; ++i)
        if (words[i] != ~0u) exclude(x + i * kWordBits, kWordBits, words[i]);  // a constant length: vectors
    int64_t i = whole * kWordBits;
    if (whole < count) exclude(x + i, n - i, words[whole]), i = n;
    for (; i < n; ++i) x[i] = -__builtin_inff();
}

inline void mask(const MaskTask& task, int part, int parts) {
    const Range range = share(task.count, part, parts);
    for (int64_t i = range.begin; i < range.end; ++i)
        mask_row(task.logits + task.rows[i] * task.width, task.width, task.masks + i * task.words, task.words);
}

}  // namespace ernie::ERNIE_VARIANT
