// The paged KV cache of one layer (layout: kernels.hpp, AttentionTask).
#pragma once

#include <cstdint>

#include "memory.hpp"

namespace ernie {

struct LayerCache {
    LayerCache(int64_t num_blocks, int64_t block_size, int64_t kv_heads, int64_t head_dim, bool is_bfloat16);

    int64_t num_blocks;
    int64_t block_size;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t stride;  // head_dim rounded up to the widest register
    bool is_bfloat16;
    Memory keys;
    Memory values;
};

}  // namespace ernie
