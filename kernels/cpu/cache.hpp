// The paged KV cache of one layer (layout: attention_task.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "attention_task.hpp"
#include "memory.hpp"

namespace ernie {

struct LayerCache {
    // The channels are static scales [kv_heads][head_dim] of an Int8 cache, copied, or null.
    LayerCache(int64_t num_blocks, int64_t block_size, int64_t kv_heads, int64_t head_dim, CacheKind kind,
               const float* key_channels, const float* value_channels);

    CacheView view() const;

    int64_t num_blocks;
    int64_t block_size;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t stride;
    CacheKind kind;

  private:
    Memory keys_, values_, key_scales_, value_scales_;
    std::vector<float> key_channels_, value_channels_;
};

}  // namespace ernie
