#include "cache.hpp"

namespace ernie {

LayerCache::LayerCache(int64_t num_blocks, int64_t block_size, int64_t kv_heads, int64_t head_dim,
                       bool is_bfloat16)
    : num_blocks(num_blocks),
      block_size(block_size),
      kv_heads(kv_heads),
      head_dim(head_dim),
      stride((head_dim + 15) / 16 * 16),
      is_bfloat16(is_bfloat16) {
    const size_t bytes = size_t(num_blocks * block_size * kv_heads * stride) * (is_bfloat16 ? 2 : 4);
    keys = allocate_zeroed(bytes);
    values = allocate_zeroed(bytes);
}

}  // namespace ernie
