// The paged KV cache in memory, and the plain arguments of the attention kernels.
//
// Cache slot s = block * block_size + offset is lane s % kPage of page s / kPage. A page holds the keys (or
// values) of kPage slots for one kv head; `stride` is head_dim rounded up to kPage, zeros beyond head_dim:
//
//   keys    [pages][kv_heads][stride][kPage]
//           one dimension of kPage slots side by side: a register of keys serves as many scores
//   values  [pages][kv_heads][stride / kPage][kPage][kPage]
//           [dimensions / kPage][slot][dimension]: a register of values serves as many results
//   scales  [pages][kv_heads][kPage]
//           dynamic Int8 only: number = code * scale of its slot
//
// An Int8 cache with static scales has none for its slots but one for each channel, [kv_heads][head_dim]. They
// never meet the codes: queries are multiplied by those of the keys, results by those of the values.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ernie {

enum class CacheKind { Float32, Bfloat16, Int8 };

inline constexpr int64_t kPage = 16;
inline constexpr int64_t kKeyTile = 64;     // keys per step of the online softmax
inline constexpr int64_t kKeyRange = 1024;  // keys per partial softmax; ranges start at multiples of it
inline constexpr int64_t kRowTile = 128;    // query rows that share one pass over keys and values

struct CacheView {
    CacheKind kind;
    void* keys;
    void* values;
    float* key_scales;
    float* value_scales;
    const float* key_channels;  // static scales, or null
    const float* value_channels;
    int64_t block_size;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t stride;
};

// Query rows of one sequence that attend together, over some ranges of its keys. Row i of a sequence and kv
// head is head i % group of token i / group.
struct AttentionUnit {
    int64_t sequence;
    int64_t kv_head;
    int64_t first_token;  // row of the step
    int64_t context;      // keys before the sequence's first new token
    int64_t begin, end;   // rows, counted from first_token
    int64_t first_range, last_range;
    int64_t partial;  // first row in the table of partial softmaxes; -1: it sees all ranges and writes y
};

// Partial softmaxes to join: those of `rows` rows over `ranges` ranges, [ranges][rows] from `partial` on.
struct AttentionJoin {
    int64_t kv_head;
    int64_t first_token;
    int64_t rows;
    int64_t ranges;
    int64_t partial;
};

struct AttentionTask {
    CacheView cache;
    const float* qkv;
    const float* cosines;  // [rows][head_dim / 2]
    const float* sines;
    bool is_interleaved;
    const int32_t* row_sequences;  // [rows]
    const int32_t* row_slots;      // [rows] index of the row's token in its sequence's cache
    const int32_t* block_tables;
    int64_t table_width;
    int64_t rows;
    int64_t heads;
    float* queries;   // [kv_heads][rows][group][stride]
    float* partials;  // [partial rows][stride + 2]: sums of values, maximum, sum of weights
    float* y;         // [rows][heads * head_dim]
    float* scratch;   // per part: attention_scratch(stride) floats
    const AttentionUnit* units;
    int64_t num_units;
    const AttentionJoin* joins;
    int64_t num_joins;
    std::atomic<int64_t>* next_unit;

    int64_t group() const { return heads / cache.kv_heads; }
};

// Floats per part, for tiles of floats and for those of pairs (bfloat16_attention.hpp): sums of values of the
// range and of all ranges; scores and weights; pages of keys and values as they are stored, and as they are
// multiplied; queries in pairs; scales; the rows' maxima and sums twice.
inline constexpr int64_t attention_scratch(int64_t stride) {
    return (3 * kRowTile + 4 * kKeyTile) * (stride + kPage) + kRowTile * kKeyTile + 8 * kKeyTile + 4 * kRowTile;
}

}  // namespace ernie
