#include "batch.hpp"

#include <algorithm>

#include "checks.hpp"

namespace ernie {
namespace {

void check_rising(const char* name, const std::vector<int32_t>& rows, int64_t limit) {
    for (size_t i = 0; i < rows.size(); ++i) {
        expect_below(name, rows[i], limit);
        if (i && rows[i] <= rows[i - 1]) throw std::invalid_argument(std::string(name) + " must rise");
    }
}

}  // namespace

void Batch::check() const {
    if (positions.size() < token_ids.size() || (tokens() && positions.size() % token_ids.size()))
        throw std::invalid_argument("batch.positions must have a number for each token, on every axis");
    expect("batch.query_starts length", int64_t(query_starts.size()), sequences() + 1);
    expect("batch.block_tables length", int64_t(block_tables.size()), sequences() * table_width);
    expect("batch.query_starts first", query_starts.front(), 0);
    expect("batch.query_starts last", query_starts.back(), tokens());
    if (!std::is_sorted(query_starts.begin(), query_starts.end()))
        throw std::invalid_argument("batch.query_starts must rise");
    for (const int32_t length : context_lengths)
        if (length < 0) throw std::invalid_argument("batch.context_lengths must not be negative");
    check_rising("batch.media_rows", media_rows, tokens());
    check_rising("batch.vision_rows", vision_rows, tokens());
}

const RowAngles& Batch::row_angles(const RotaryView& rotary) {
    if (angles && angles->table_id == rotary.id) return *angles;
    for (const int32_t position : positions) expect_below("batch.positions", position, rotary.max_positions);
    const size_t rows = token_ids.size(), half = size_t(rotary.head_dim / 2);
    const bool has_axes = positions.size() > rows;
    if (has_axes) expect("batch.positions axes", int64_t(positions.size() / rows), rotary.num_axes);
    RowAngles made{rotary.id, std::vector<float>(rows * half), std::vector<float>(rows * half)};
    for (size_t row = 0; row < rows; ++row)
        for (size_t i = 0; i < half; ++i) {
            const size_t axis = has_axes ? size_t(rotary.axes[i]) : 0;
            const size_t at = size_t(positions[axis * rows + row]) * half + i;
            made.cosines[row * half + i] = rotary.cosines[at];
            made.sines[row * half + i] = rotary.sines[at];
        }
    angles = std::move(made);
    return *angles;
}

const AttentionPlan& Batch::attention_plan(const AttentionShape& shape) {
    if (!plan || plan->shape != shape) plan = plan_attention(*this, shape);
    return *plan;
}

}  // namespace ernie
