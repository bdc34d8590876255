#include "attention_plan.hpp"

#include <algorithm>

namespace ernie {
namespace {

int64_t ranges_of(int64_t keys) { return (keys + kKeyRange - 1) / kKeyRange; }

// All rows of a sequence and kv head fit one tile: a unit for every range.
void split_ranges(AttentionUnit unit, int64_t ranges, AttentionPlan& plan) {
    if (ranges > 1) {
        plan.joins.push_back({unit.kv_head, unit.first_token, unit.end, ranges, plan.partial_rows});
        unit.partial = plan.partial_rows;
        plan.partial_rows += ranges * unit.end;
    }
    for (int64_t range = 0; range < ranges; ++range) {
        unit.first_range = range;
        unit.last_range = range + 1;
        plan.units.push_back(unit);
        if (unit.partial >= 0) unit.partial += unit.end;
    }
}

void split_rows(AttentionUnit unit, int64_t rows, int64_t group, AttentionPlan& plan) {
    for (int64_t begin = 0; begin < rows; begin += kRowTile) {
        unit.begin = begin;
        unit.end = std::min(begin + kRowTile, rows);
        unit.last_range = ranges_of(unit.context + (unit.end - 1) / group + 1);
        plan.units.push_back(unit);
    }
}

int64_t cost(const AttentionUnit& unit) {
    return (unit.end - unit.begin) * (unit.last_range - unit.first_range) * kKeyRange + unit.begin;
}

}  // namespace

void plan_attention(const int32_t* query_starts, const int32_t* contexts, int64_t sequences, int64_t kv_heads,
                    int64_t group, AttentionPlan& plan) {
    plan.units.clear();
    plan.joins.clear();
    plan.partial_rows = 0;
    for (int64_t s = 0; s < sequences; ++s) {
        const int64_t first = query_starts[s], tokens = query_starts[s + 1] - first;
        if (tokens == 0) continue;
        const int64_t rows = tokens * group;
        for (int64_t head = 0; head < kv_heads; ++head) {
            const AttentionUnit unit{s, head, first, contexts[s], 0, rows, 0, 0, -1};
            if (rows <= kRowTile)
                split_ranges(unit, ranges_of(contexts[s] + tokens), plan);
            else
                split_rows(unit, rows, group, plan);
        }
    }
    std::stable_sort(plan.units.begin(), plan.units.end(),
                     [](const AttentionUnit& a, const AttentionUnit& b) { return cost(a) > cost(b); });
}

}  // namespace ernie
