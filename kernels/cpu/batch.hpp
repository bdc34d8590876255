// A step's index arrays, and the plan of its attention.
#pragma once

#include <optional>

#include "attention_plan.hpp"

namespace ernie {

// A table of rotary embeddings.
struct RotaryView {
    int64_t id;            // of the table
    const float* cosines;  // [max_positions][head_dim / 2]
    const float* sines;
    const std::vector<int32_t>& axes;  // of each pair; empty: positions have one axis
    int64_t num_axes;
    int64_t max_positions;
    int64_t head_dim;
    bool interleaved;
};

// The angles of each row of a step, each [T][head_dim / 2].
struct RowAngles {
    int64_t table_id;
    std::vector<float> cosines;
    std::vector<float> sines;
};

// The arrays of ernie_kernels.api.Batch: T tokens of S sequences. Copies, so that they stay as they were
// checked.
struct Batch {
    std::vector<int32_t> token_ids;        // [T]
    std::vector<int32_t> positions;        // [axes][T]
    std::vector<int32_t> query_starts;     // [S + 1]
    std::vector<int32_t> context_lengths;  // [S]
    std::vector<int32_t> block_tables;     // [S][table_width]
    std::vector<int32_t> logit_rows;
    std::vector<int32_t> media_rows;   // rising
    std::vector<int32_t> vision_rows;  // rising
    int64_t table_width;
    std::optional<AttentionPlan> plan;  // of the last shape requested
    std::optional<RowAngles> angles;    // of the last table requested

    int64_t tokens() const { return int64_t(token_ids.size()); }
    int64_t sequences() const { return int64_t(context_lengths.size()); }
    int64_t num_logit_rows() const { return int64_t(logit_rows.size()); }

    // Throws std::invalid_argument unless the arrays fit each other.
    void check() const;

    // Made by the first layer of a step, and the same for the others. Throws what plan_attention does.
    const AttentionPlan& attention_plan(const AttentionShape& shape);

    // The same for angles. Throws std::invalid_argument if a position has none in the table, or other axes.
    const RowAngles& row_angles(const RotaryView& rotary);
};

}  // namespace ernie
