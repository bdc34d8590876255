// Cuts the attention of a step into units that do not depend on each other.
//
//   rows = new tokens * query heads of a kv head
//
//   rows > kRowTile (a prompt)       units of kRowTile rows, each over all the keys that it sees
//   rows <= kRowTile (decoding)      units of all rows, one for each range of kKeyRange keys
//
// The partial softmaxes of a sequence that is cut by ranges are joined in rising order: exactly what a row tile
// does one range after the other, so the cut changes no bit.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_task.hpp"

namespace ernie {

struct Batch;

// What a plan depends on besides the batch: the same in all layers of a model.
struct AttentionShape {
    int64_t num_blocks;
    int64_t block_size;
    int64_t kv_heads;
    int64_t group;  // query heads per kv head

    bool operator==(const AttentionShape&) const = default;
};

struct AttentionPlan {
    AttentionShape shape;
    std::vector<int32_t> row_sequences;  // [tokens]
    std::vector<int32_t> row_slots;      // [tokens] index of the row's token in its sequence's cache
    std::vector<AttentionUnit> units;    // the most expensive first
    std::vector<AttentionJoin> joins;
    int64_t partial_rows = 0;
    int64_t attended_keys = 0;  // of all rows together
};

// The batch is checked. Throws std::invalid_argument if a sequence needs a block that its table or the cache
// does not have.
AttentionPlan plan_attention(const Batch& batch, const AttentionShape& shape);

}  // namespace ernie
