#include "patches.hpp"

#include <algorithm>
#include <stdexcept>

#include "checks.hpp"
#include "ops.hpp"

namespace ernie {

PatchCache::PatchCache(int64_t rows, int64_t frame, int64_t heads, int64_t head_dim, CacheKind kind)
    : rows(rows), frame(frame), heads(heads), head_dim(head_dim), kind(kind) {
    if (std::min({rows, frame, heads, head_dim}) < 1 || rows % frame || head_dim % 2 || kind == CacheKind::Int8)
        throw std::invalid_argument("patches need whole frames, an even head_dim, and float32 or bfloat16");
    const int64_t multiple = kind == CacheKind::Float32 ? kPage : 2 * kPage;
    stride = (head_dim + multiple - 1) / multiple * multiple;
    const int64_t bytes = (kind == CacheKind::Float32 ? 4 : 2) * stride * heads;
    const int64_t slots = rows / frame * view().frame_pages() * kPage;
    // Queries are read in whole tiles of rows.
    queries_ = allocate_zeroed(size_t(bytes * (rows + kPatchRows)));
    keys_ = allocate_zeroed(size_t(bytes * slots));
    values_ = allocate_zeroed(size_t(bytes * slots));
}

PatchView PatchCache::view() const {
    return {kind, queries_.get(), keys_.get(), values_.get(), rows, frame, heads, head_dim, stride};
}

void Ops::layer_norm(Matrix x, const Matrix* delta, Vector weight, Vector bias, float epsilon, Matrix* residual,
                     Matrix y) {
    expect("norm weight length", weight.size, x.columns);
    expect("norm bias length", bias.size, x.columns);
    expect_shape("norm result", y, x.rows, x.columns);
    if (delta) {
        expect_shape("delta", *delta, x.rows, x.columns);
        expect_shape("residual", *residual, x.rows, x.columns);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    run(kernels_.norm,
        NormTask{x.data, delta ? delta->data : nullptr, weight.data, bias.data,
                 residual ? residual->data : nullptr, y.data, x.rows, x.columns, epsilon},
        4 * x.rows * x.columns);
}

void Ops::gelu_mlp(Matrix x, const PackedLinear& up, Vector up_bias, const PackedLinear& down, Vector down_bias,
                   GeluKind gelu, Matrix y) {
    expect("up panel width", up.panel, kernels_.panel);
    expect("down panel width", down.panel, kernels_.panel);
    expect("gelu_mlp input columns", x.columns, up.inputs);
    expect("up outputs", up.outputs, down.inputs);
    expect("up bias length", up_bias.size, up.outputs);
    expect("down bias length", down_bias.size, down.outputs);
    expect_shape("gelu_mlp result", y, x.rows, down.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    float* hidden = grow(hidden_, x.rows * up.outputs);
    multiply({{&up, x.data, x.rows, hidden, up_bias.data}});
    run(kernels_.gelu, GeluTask{hidden, x.rows * up.outputs, gelu}, 16 * x.rows * up.outputs);
    multiply({{&down, hidden, x.rows, y.data, down_bias.data}});
}

void Ops::append_patches(Matrix qkv, const PatchAngles& angles, PatchCache& cache, int64_t begin) {
    expect("qkv columns", qkv.columns, 3 * cache.heads * cache.head_dim);
    expect("rotary head_dim", angles.head_dim, cache.head_dim);
    expect("rotary patches", angles.frame, cache.frame);
    expect_below("begin", begin, cache.rows - qkv.rows + 1);
    const std::lock_guard<std::mutex> lock(mutex_);
    const PatchAppendTask task{cache.view(),
                               qkv.data,
                               angles.cosines,
                               angles.sines,
                               begin,
                               qkv.rows,
                               grow(scratch_, pool_.size() * cache.head_dim)};
    run(kernels_.append_patches, task, 4 * qkv.rows * qkv.columns);
}

void Ops::attend_patches(PatchCache& cache, int64_t begin, Matrix y) {
    expect("patch attention columns", y.columns, cache.heads * cache.head_dim);
    expect_below("begin", begin, cache.rows - y.rows + 1);
    const std::lock_guard<std::mutex> lock(mutex_);
    // Head by head: a head's keys and values stay in cache for all of its rows.
    units_.clear();
    for (int64_t head = 0; head < cache.heads; ++head)
        for (int64_t row = begin, end = begin + y.rows; row < end;) {
            const int64_t frame_end = (row / cache.frame + 1) * cache.frame;
            const int64_t count = std::min({kPatchRows, end - row, frame_end - row});
            units_.push_back({head, row, count});
            row += count;
        }
    std::atomic<int64_t> next_unit{0};
    const int64_t size = patch_scratch(cache.stride);
    const PatchAttentionTask task{cache.view(), units_.data(), int64_t(units_.size()),
                                  begin,        y.data,        grow(scratch_, pool_.size() * size),
                                  size,         &next_unit};
    run(kernels_.attend_patches, task, 2 * y.rows * cache.frame * cache.heads * cache.stride);
}

}  // namespace ernie
