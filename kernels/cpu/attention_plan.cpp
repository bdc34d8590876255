#include "attention_plan.hpp"

#include <algorithm>

#include "batch.hpp"
#include "checks.hpp"

namespace ernie {
namespace {

int64_t ranges_of(int64_t keys) { return (keys + kKeyRange - 1) / kKeyRange; }

// All rows of a sequence and kv head fit one tile: a unit for every range. With several ranges each unit leaves
// its partial softmaxes in a table, [ranges][rows] from plan.partial_rows on, and a join adds them up.
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

// A unit for every kRowTile rows, over the ranges that its last row sees.
void split_rows(AttentionUnit unit, int64_t rows, int64_t group, AttentionPlan& plan) {
    for (int64_t begin = 0; begin < rows; begin += kRowTile) {
        unit.begin = begin;
        unit.end = std::min(begin + kRowTile, rows);
        unit.last_range = ranges_of(unit.context + (unit.end - 1) / group + 1);
        plan.units.push_back(unit);
    }
}

// Pairs of a row and a key, whole ranges; of equal ones the later rows first, whose last range is fuller.
int64_t cost(const AttentionUnit& unit) {
    return (unit.end - unit.begin) * (unit.last_range - unit.first_range) * kKeyRange + unit.begin;
}

// Throws unless every block that the sequence needs exists.
void check_blocks(const Batch& batch, int64_t sequence, int64_t keys, const AttentionShape& shape) {
    const int64_t blocks = (keys + shape.block_size - 1) / shape.block_size;
    if (blocks > batch.table_width)
        throw std::invalid_argument("block table of " + std::to_string(batch.table_width) +
                                    " blocks is too short for " + std::to_string(blocks) + " blocks");
    const int32_t* table = batch.block_tables.data() + sequence * batch.table_width;
    for (int64_t b = 0; b < blocks; ++b) expect_below("batch.block_tables", table[b], shape.num_blocks);
}

}  // namespace

AttentionPlan plan_attention(const Batch& batch, const AttentionShape& shape) {
    AttentionPlan plan{shape, {}, {}, {}, {}};
    plan.row_sequences.reserve(batch.token_ids.size());
    plan.row_slots.reserve(batch.token_ids.size());
    for (int64_t s = 0; s < batch.sequences(); ++s) {
        const int64_t first = batch.query_starts[size_t(s)], context = batch.context_lengths[size_t(s)];
        const int64_t keys = context + batch.query_starts[size_t(s) + 1] - first;
        if (keys == context) continue;  // no new tokens
        check_blocks(batch, s, keys, shape);
        for (int64_t slot = context; slot < keys; ++slot) {
            plan.row_sequences.push_back(int32_t(s));
            plan.row_slots.push_back(int32_t(slot));
            plan.attended_keys += slot + 1;
        }
        const int64_t rows = (keys - context) * shape.group;
        for (int64_t head = 0; head < shape.kv_heads; ++head) {
            const AttentionUnit unit{s, head, first, context, 0, rows, 0, 0, -1};
            // Few rows: cut the keys, so that one long sequence keeps all threads busy. Many: cut the rows.
            if (rows <= kRowTile)
                split_ranges(unit, ranges_of(keys), plan);
            else
                split_rows(unit, rows, shape.group, plan);
        }
    }
    // Threads take units in this order, so none begins a long one when the others have nothing left to do.
    std::stable_sort(plan.units.begin(), plan.units.end(),
                     [](const AttentionUnit& a, const AttentionUnit& b) { return cost(a) > cost(b); });
    return plan;
}

}  // namespace ernie
