// Cuts the attention of a step into units that do not depend on each other.
//
// A sequence with many new tokens is cut into row tiles, each over all its keys. One with few (a decoding
// sequence) is cut by key ranges too, whose partial softmaxes are joined in rising order: exactly what a row
// tile does one range after the other, so the cut changes no bit.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_task.hpp"

namespace ernie {

struct AttentionPlan {
    std::vector<AttentionUnit> units;  // the longest first
    std::vector<AttentionJoin> joins;
    int64_t partial_rows = 0;
};

// query_starts [sequences + 1] and contexts [sequences] as in the batch, checked; group: query heads per kv
// head.
void plan_attention(const int32_t* query_starts, const int32_t* contexts, int64_t sequences, int64_t kv_heads,
                    int64_t group, AttentionPlan& plan);

}  // namespace ernie
