// Queries, keys and values of the patches of one layer (layout: patch_task.hpp).
#pragma once

#include <cstdint>

#include "memory.hpp"
#include "patch_task.hpp"

namespace ernie {

struct PatchCache {
    // Throws std::invalid_argument unless there are whole frames and an even head_dim.
    PatchCache(int64_t rows, int64_t frame, int64_t heads, int64_t head_dim, CacheKind kind);

    PatchView view() const;

    int64_t rows;
    int64_t frame;
    int64_t heads;
    int64_t head_dim;
    int64_t stride;
    CacheKind kind;

  private:
    Memory queries_, keys_, values_;
};

// Cosines and sines [frame][head_dim / 2] of the patches of a frame.
struct PatchAngles {
    const float* cosines;
    const float* sines;
    int64_t frame;
    int64_t head_dim;
};

}  // namespace ernie
