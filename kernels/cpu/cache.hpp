// The paged KV cache of one layer (layout: attention_task.hpp).
#pragma once

#include <cstdint>

#include "attention_task.hpp"
#include "memory.hpp"

namespace ernie {

struct LayerCache {
    LayerCache(int64_t num_blocks, int64_t block_size, int64_t kv_heads, int64_t head_dim, CacheKind kind);

    CacheView view() const;

    int64_t num_blocks;
    int64_t block_size;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t stride;
    CacheKind kind;

  private:
    Memory keys_, values_, key_scales_, value_scales_;
};

}  // namespace ernie
