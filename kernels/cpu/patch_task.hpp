// The patches of one layer of a vision tower in memory, and the plain arguments of their kernels.
//
// Queries are rows of `stride` values, zeros beyond head_dim. Keys and values are in pages of kPage patches of
// one frame, as those of the KV cache (attention_task.hpp), or in bfloat16 pairs, as the products with them
// want it:
//
//   Float32   keys    [heads][frames][pages][stride][kPage]
//             values  [heads][frames][pages][stride / kPage][kPage][kPage]
//   Bfloat16  keys    [heads][frames][pages][stride / 2][kPage][2]: pairs of dimensions
//             values  [heads][frames][pages / 2][stride / kPage][kPage][kPage][2]: pairs of patches
//
// A frame has whole tiles of kPatchTile patches; those past its end are zeros.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "attention_task.hpp"

namespace ernie {

inline constexpr int64_t kPatchTile = 128;
inline constexpr int64_t kPatchRows = 256;  // query rows that a thread takes at a time

struct PatchView {
    CacheKind kind;  // Float32 or Bfloat16
    void* queries;
    void* keys;
    void* values;
    int64_t rows;
    int64_t frame;  // patches of a frame
    int64_t heads;
    int64_t head_dim;
    int64_t stride;  // head_dim rounded up to kPage, in bfloat16 to 2 * kPage

    int64_t frames() const { return rows / frame; }
    int64_t frame_pages() const { return (frame + kPatchTile - 1) / kPatchTile * kPatchTile / kPage; }
    // The first page of a frame for one head.
    int64_t page_of(int64_t head, int64_t index) const { return (head * frames() + index) * frame_pages(); }
};

struct PatchAppendTask {
    PatchView patches;
    const float* qkv;      // [count][3 * heads * head_dim]
    const float* cosines;  // [frame][head_dim / 2]
    const float* sines;
    int64_t begin;
    int64_t count;
    float* scratch;  // [parts][head_dim]
};

// Query rows of one frame that attend together for one head.
struct PatchUnit {
    int64_t head;
    int64_t first_row;
    int64_t rows;  // at most kPatchRows
};

struct PatchAttentionTask {
    PatchView patches;
    const PatchUnit* units;
    int64_t num_units;
    int64_t begin;   // the first row of y
    float* y;        // [rows][heads * head_dim]
    float* scratch;  // [parts][patch_scratch]
    int64_t scratch_size;
    std::atomic<int64_t>* next_unit;
};

// Floats per part: sums of values of kPatchRows rows, or a row tile's and its queries; two tiles of keys or
// values; scores and weights; maxima and sums of rows.
inline constexpr int64_t patch_scratch(int64_t stride) {
    return (kPatchRows + 2 * kPatchTile) * stride + 2 * kRowTile * kPatchTile + 2 * kPatchRows;
}

}  // namespace ernie
