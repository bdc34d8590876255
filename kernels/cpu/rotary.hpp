// Rotates the pairs of one head by its token's position (RoFormer).
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

struct PositionAngles {
    const float* cosines;  // [half]
    const float* sines;
    int64_t half;
    bool is_interleaved;
};

inline PositionAngles angles_of(const AttentionTask& task, int64_t row) {
    const int64_t half = task.cache.head_dim / 2;
    return {task.cosines + row * half, task.sines + row * half, half, task.is_interleaved};
}

// Pair i is (x[i * step], x[i * step + distance]).
template <int64_t kStep>
void rotate_pairs(const PositionAngles& angles, const float* x, int64_t distance, float scale, float* out) {
    for (int64_t i = 0; i < angles.half; ++i) {
        const float a = x[i * kStep], b = x[i * kStep + distance];
        out[i * kStep] = (a * angles.cosines[i] - b * angles.sines[i]) * scale;
        out[i * kStep + distance] = (b * angles.cosines[i] + a * angles.sines[i]) * scale;
    }
}

// out[0..2 * half) = rotated x * scale.
inline void rotate_head(const PositionAngles& angles, const float* x, float scale, float* out) {
    if (angles.is_interleaved)
        rotate_pairs<2>(angles, x, 1, scale, out);
    else
        rotate_pairs<1>(angles, x, angles.half, scale, out);
}

}  // namespace ernie::ERNIE_VARIANT
