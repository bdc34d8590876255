// The output head: logits of some rows, and of others only their greedy tokens.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "checks.hpp"
#include "ops.hpp"

namespace ernie {
namespace {

constexpr int64_t kSliceColumns = 256;  // logits that a thread computes of all rows before it looks at them
constexpr int64_t kNoToken = -1;

// The token of a row's best column: none if that is NaN or infinite.
int64_t token_of(const BestColumn& best) { return std::isfinite(best.value) ? best.column : kNoToken; }

// The better of a row's best columns: NaN before all numbers, of equals the first.
BestColumn better(const BestColumn& a, const BestColumn& b) {
    if (std::isnan(a.value) || std::isnan(b.value)) return std::isnan(a.value) ? a : b;
    if (a.value != b.value) return a.value > b.value ? a : b;
    return a.column < b.column ? a : b;
}

}  // namespace

void Ops::lm_head(Matrix hidden, const PackedLinear& head, const Batch& batch, const GreedyRows& greedy,
                  Matrix logits) {
    const int64_t count = batch.num_logit_rows();
    expect("head panel width", head.panel, kernels_.panel);
    expect("lm_head input columns", hidden.columns, head.inputs);
    expect_shape("logits", logits, count - greedy.count, head.outputs);
    for (const int32_t row : batch.logit_rows) expect_below("batch.logit_rows", row, hidden.rows);
    for (int64_t i = 0; i < greedy.count; ++i) {
        expect_below("greedy places", greedy.places[i], count);
        if (i && greedy.places[i] <= greedy.places[i - 1])
            throw std::invalid_argument("greedy places must rise");
    }
    if (greedy.count) expect_below("vocab_size", greedy.vocab_size - 1, head.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    float* rows = grow(hidden_, count * head.inputs);
    for (float* next = rows; const int32_t row : batch.logit_rows)
        next = std::copy_n(hidden.data + row * head.inputs, head.inputs, next);
    if (greedy.count == 0) return multiply(rows, count, head, logits.data);
    prepare({{&head, rows, count, nullptr}});
    choose_greedily(head, products_[0], greedy, logits);
}

// Threads take slices of columns. A slice of logits stays in cache: of greedy rows only the best column is
// kept, the others' are copied.
void Ops::choose_greedily(const PackedLinear& head, const LinearTask& product, const GreedyRows& greedy,
                          Matrix logits) {
    const int64_t step = std::max<int64_t>(1, kSliceColumns / head.panel), width = step * head.panel;
    const int64_t panels = (head.outputs + head.panel - 1) / head.panel;
    float* slices = grow(scratch_, pool_.size() * product.rows * width);
    std::vector<BestColumn> best(size_t(pool_.size() * greedy.count), BestColumn{-INFINITY, head.outputs});
    std::atomic<int64_t> next_panel{0};
    pool_.run([&](int part, int) {
        LinearTask task = product;
        task.y = slices + part * product.rows * width;
        for (int64_t panel; (panel = next_panel.fetch_add(step, std::memory_order_relaxed)) < panels;) {
            task.weight = head.view(panel, step);
            kernels_.linear(task, 0, 1);
            const int64_t first = panel * head.panel, columns = task.weight.outputs;
            copy_stored(task, greedy, first, logits);
            kernels_.best({task.y, columns, std::min(columns, greedy.vocab_size - first), first, greedy.places,
                           greedy.count, best.data() + part * greedy.count});
        }
    });
    for (int64_t i = 0; i < greedy.count; ++i) {
        for (int part = 1; part < pool_.size(); ++part)
            best[size_t(i)] = better(best[size_t(i)], best[size_t(part * greedy.count + i)]);
        greedy.tokens[i] = token_of(best[size_t(i)]);
    }
}

// Copies a slice of the rows that are not greedy, from column `first` on.
void Ops::copy_stored(const LinearTask& slice, const GreedyRows& greedy, int64_t first, Matrix logits) {
    const int64_t columns = slice.weight.outputs;
    float* out = logits.data + first;
    for (int64_t row = 0, next = 0; row < slice.rows; ++row) {
        if (next < greedy.count && greedy.places[next] == row) {
            ++next;
            continue;
        }
        std::copy_n(slice.y + row * columns, columns, out);
        out += logits.columns;
    }
}

}  // namespace ernie
