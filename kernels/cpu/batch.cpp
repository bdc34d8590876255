#include "batch.hpp"

#include <algorithm>

#include "checks.hpp"

namespace ernie {

void Batch::check() const {
    expect("batch.positions length", int64_t(positions.size()), tokens());
    expect("batch.query_starts length", int64_t(query_starts.size()), sequences() + 1);
    expect("batch.block_tables length", int64_t(block_tables.size()), sequences() * table_width);
    expect("batch.query_starts first", query_starts.front(), 0);
    expect("batch.query_starts last", query_starts.back(), tokens());
    if (!std::is_sorted(query_starts.begin(), query_starts.end()))
        throw std::invalid_argument("batch.query_starts must rise");
    for (const int32_t length : context_lengths)
        if (length < 0) throw std::invalid_argument("batch.context_lengths must not be negative");
}

const AttentionPlan& Batch::attention_plan(const AttentionShape& shape) {
    if (!plan || plan->shape != shape) plan = plan_attention(*this, shape);
    return *plan;
}

}  // namespace ernie
