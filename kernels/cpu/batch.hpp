// A step's index arrays, and the plan of its attention.
#pragma once

#include <optional>

#include "attention_plan.hpp"

namespace ernie {

// The arrays of ernie_kernels.api.Batch: T tokens of S sequences. Copies, so that they stay as they were
// checked.
struct Batch {
    std::vector<int32_t> token_ids;        // [T]
    std::vector<int32_t> positions;        // [T]
    std::vector<int32_t> query_starts;     // [S + 1]
    std::vector<int32_t> context_lengths;  // [S]
    std::vector<int32_t> block_tables;     // [S][table_width]
    std::vector<int32_t> logit_rows;
    int64_t table_width;
    std::optional<AttentionPlan> plan;  // of the last shape requested

    int64_t tokens() const { return int64_t(token_ids.size()); }
    int64_t sequences() const { return int64_t(context_lengths.size()); }
    int64_t num_logit_rows() const { return int64_t(logit_rows.size()); }

    // Throws std::invalid_argument unless the arrays fit each other.
    void check() const;

    // Made by the first layer of a step, and the same for the others. Throws what plan_attention does.
    const AttentionPlan& attention_plan(const AttentionShape& shape);
};

}  // namespace ernie
