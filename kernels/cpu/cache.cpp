#include "cache.hpp"

namespace ernie {
namespace {

size_t item_bytes(CacheKind kind) {
    switch (kind) {
        case CacheKind::Float32:
            return 4;
        case CacheKind::Bfloat16:
            return 2;
        case CacheKind::Int8:
            return 1;
    }
    __builtin_unreachable();
}

}  // namespace

LayerCache::LayerCache(int64_t num_blocks, int64_t block_size, int64_t kv_heads, int64_t head_dim,
                       CacheKind kind, const float* key_channels, const float* value_channels)
    : num_blocks(num_blocks),
      block_size(block_size),
      kv_heads(kv_heads),
      head_dim(head_dim),
      stride((head_dim + kPage - 1) / kPage * kPage),
      kind(kind) {
    const size_t slots = size_t((num_blocks * block_size + kPage - 1) / kPage * kPage * kv_heads);
    keys_ = allocate_staggered(slots * size_t(stride) * item_bytes(kind));
    values_ = allocate_staggered(slots * size_t(stride) * item_bytes(kind));
    if (key_channels) {
        key_channels_.assign(key_channels, key_channels + kv_heads * head_dim);
        value_channels_.assign(value_channels, value_channels + kv_heads * head_dim);
    } else if (kind == CacheKind::Int8) {
        key_scales_ = allocate_zeroed(slots * sizeof(float));
        value_scales_ = allocate_zeroed(slots * sizeof(float));
    }
}

CacheView LayerCache::view() const {
    return {kind,
            keys_.get(),
            values_.get(),
            static_cast<float*>(key_scales_.get()),
            static_cast<float*>(value_scales_.get()),
            key_channels_.empty() ? nullptr : key_channels_.data(),
            value_channels_.empty() ? nullptr : value_channels_.data(),
            block_size,
            kv_heads,
            head_dim,
            stride};
}

}  // namespace ernie
