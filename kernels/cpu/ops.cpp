#include "ops.hpp"

#include <algorithm>
#include <stdexcept>

#include "dispatch.hpp"

namespace ernie {
namespace {

constexpr int kMostThreads = 1024;
constexpr int64_t kSmallWork = 1 << 16;    // multiply-adds that cost less than waking the other threads
constexpr int64_t kChunkBytes = 64 << 10;  // weights that a thread takes at a time
constexpr float kInt8Levels = 127, kInt16Levels = 127 * 128;
// Integer sums of a group stay below 2 ** 31: 1024 * 127 * 127 * 128.
constexpr int64_t kLargestGroup = 1024;

int checked_threads(int threads) {
    if (threads >= 1 && threads <= kMostThreads) return threads;
    throw std::invalid_argument("threads " + std::to_string(threads) + " must be 1 to " +
                                std::to_string(kMostThreads));
}

void expect(const char* name, int64_t value, int64_t expected) {
    if (value == expected) return;
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                                std::to_string(expected));
}

void expect_below(const char* name, int64_t value, int64_t limit) {
    if (value >= 0 && value < limit) return;
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(value) + ", expected 0 to " +
                                std::to_string(limit - 1));
}

void expect_shape(const char* name, const Matrix& x, int64_t rows, int64_t columns) {
    expect((std::string(name) + " rows").c_str(), x.rows, rows);
    expect((std::string(name) + " columns").c_str(), x.columns, columns);
}

template <typename T>
T* grow(std::vector<T>& scratch, int64_t items) {
    if (int64_t(scratch.size()) < items) scratch.resize(size_t(items));
    return scratch.data();
}

// The rows of the batch by sequence; every block that a sequence needs exists.
void locate_rows(const BatchView& batch, const LayerCache& cache, int32_t* sequences, int32_t* slots) {
    expect_below("batch.query_starts", batch.query_starts[batch.sequences], batch.tokens + 1);
    expect("batch.query_starts first", batch.query_starts[0], 0);
    expect("batch.query_starts last", batch.query_starts[batch.sequences], batch.tokens);
    for (int64_t s = 0; s < batch.sequences; ++s) {
        const int64_t start = batch.query_starts[s], end = batch.query_starts[s + 1];
        if (end < start || end > batch.tokens) throw std::invalid_argument("batch.query_starts must rise");
        if (end == start) continue;
        const int64_t context = batch.context_lengths[s];
        if (context < 0) throw std::invalid_argument("batch.context_lengths must not be negative");
        const int64_t blocks = (context + end - start + cache.block_size - 1) / cache.block_size;
        if (blocks > batch.table_width)
            throw std::invalid_argument("block table of " + std::to_string(batch.table_width) +
                                        " blocks is too short for " + std::to_string(blocks) + " blocks");
        for (int64_t b = 0; b < blocks; ++b)
            expect_below("batch.block_tables", batch.block_tables[s * batch.table_width + b], cache.num_blocks);
        for (int64_t row = start; row < end; ++row) {
            sequences[row] = int32_t(s);
            slots[row] = int32_t(context + row - start);
        }
    }
}

int64_t attended_keys(const int32_t* slots, int64_t rows) {
    int64_t keys = 0;
    for (int64_t row = 0; row < rows; ++row) keys += slots[row] + 1;
    return keys;
}

}  // namespace

Ops::Ops(int threads, const std::string& instruction_set)
    : kernels_(kernels_for(instruction_set)), pool_(checked_threads(threads)) {}

// Runs all parts of a kernel; `work` is about its multiply-adds. Small ones stay on the calling thread: results
// do not depend on the number of parts.
template <typename Task>
void Ops::run(void (*kernel)(const Task&, int, int), const Task& task, int64_t work) {
    if (work < kSmallWork) return kernel(task, 0, 1);
    pool_.run([&](int part, int parts) { kernel(task, part, parts); });
}

PackedLinear Ops::pack(WeightKind kind, Activation activation, int64_t outputs, int64_t inputs, int64_t group,
                       const void* source, const float* scales) {
    if (group < kStep || group % kStep || group > kLargestGroup)
        throw std::invalid_argument("activation group " + std::to_string(group) + " must be a multiple of " +
                                    std::to_string(kStep) + " up to " + std::to_string(kLargestGroup));
    if (activation == Activation::Bfloat16 && kind != WeightKind::Bfloat16)
        throw std::invalid_argument("activation bfloat16 goes with bfloat16 weights only");
    const std::lock_guard<std::mutex> lock(mutex_);
    return pack_linear(kind, activation, outputs, inputs, kernels_.panel, group, source, scales, pool_);
}

void Ops::embed(const PackedLinear& table, const BatchView& batch, Matrix y) {
    expect("table panel width", table.panel, kernels_.panel);
    expect_shape("embed result", y, batch.tokens, table.inputs);
    for (int64_t row = 0; row < batch.tokens; ++row)
        expect_below("batch.token_ids", batch.token_ids[row], table.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    run(kernels_.embed, EmbedTask{table.view(), batch.token_ids, y.data, batch.tokens},
        16 * batch.tokens * table.inputs);
}

void Ops::norm(Matrix x, const Matrix* delta, const float* weight, int64_t width, float epsilon,
               Matrix* residual, Matrix y) {
    expect("norm weight length", width, x.columns);
    expect_shape("norm result", y, x.rows, x.columns);
    if (delta) {
        expect_shape("delta", *delta, x.rows, x.columns);
        expect_shape("residual", *residual, x.rows, x.columns);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    run(kernels_.norm,
        NormTask{x.data, delta ? delta->data : nullptr, weight, residual ? residual->data : nullptr, y.data,
                 x.rows, x.columns, epsilon},
        2 * x.rows * x.columns);
}

// The rows as codes, in scratch memory.
QuantizedRows Ops::quantize(const float* x, int64_t rows, const PackedLinear& weight) {
    QuantizedRows q{};
    q.stride = (weight.inputs + kStep - 1) / kStep * kStep;
    q.group = weight.group;
    q.groups = (weight.inputs + q.group - 1) / q.group;
    q.codes = grow(codes_, rows * q.stride);
    q.scales = grow(scales_, rows * q.groups);
    const float levels = weight.activation == Activation::Int16 ? kInt16Levels : kInt8Levels;
    run(kernels_.quantize, QuantizeTask{x, rows, weight.inputs, levels, q}, 4 * rows * weight.inputs);
    return q;
}

// The rows in bfloat16, in scratch memory.
RoundedRows Ops::round(const float* x, int64_t rows, int64_t inputs) {
    const int64_t stride = (inputs + 1) / 2 * 2;
    const RoundedRows rounded{grow(rounded_, rows * stride * kLargestItem), stride};
    run(kernels_.round, RoundTask{x, rows, inputs, rounded}, rows * inputs);
    return rounded;
}

// x [rows][inputs] to y [rows][outputs]; the mutex is held.
void Ops::multiply(const float* x, int64_t rows, const PackedLinear& weight, float* y) {
    LinearTask task{weight.view(), x, {}, {}, y, rows};
    if (weight.activation == Activation::Bfloat16)
        task.rounded = round(x, rows, weight.inputs);
    else if (weight.activation != Activation::Float32)
        task.quantized = quantize(x, rows, weight);
    if (rows * weight.inputs * weight.outputs < kSmallWork) return kernels_.linear(task, 0, 1);
    const int64_t chunks = std::max<int64_t>(pool_.size(), weight.bytes / kChunkBytes);
    pool_.run(int(std::min<int64_t>(chunks, INT32_MAX)),
              [&](int chunk, int count) { kernels_.linear(task, chunk, count); });
}

void Ops::linear(Matrix x, const PackedLinear& weight, Matrix y) {
    expect("weight panel width", weight.panel, kernels_.panel);
    expect("linear input columns", x.columns, weight.inputs);
    expect_shape("linear result", y, x.rows, weight.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    multiply(x.data, x.rows, weight, y.data);
}

void Ops::mlp(Matrix x, const PackedLinear& gate_up, const PackedLinear& down, Matrix y) {
    expect("gate_up panel width", gate_up.panel, kernels_.panel);
    expect("down panel width", down.panel, kernels_.panel);
    expect("mlp input columns", x.columns, gate_up.inputs);
    expect("gate_up outputs", gate_up.outputs, 2 * down.inputs);
    expect_shape("mlp result", y, x.rows, down.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    float* both = grow(gate_up_, x.rows * gate_up.outputs);
    float* hidden = grow(hidden_, x.rows * down.inputs);
    multiply(x.data, x.rows, gate_up, both);
    run(kernels_.swiglu, SwigluTask{both, hidden, x.rows, down.inputs}, 16 * x.rows * down.inputs);
    multiply(hidden, x.rows, down, y.data);
}

void Ops::attention(Matrix qkv, const RotaryView& rotary, LayerCache& cache, const BatchView& batch, Matrix y) {
    expect("qkv rows", qkv.rows, batch.tokens);
    expect("rotary head_dim", rotary.head_dim, cache.head_dim);
    const int64_t heads = qkv.columns / cache.head_dim - 2 * cache.kv_heads;
    if (heads <= 0 || heads % cache.kv_heads || qkv.columns % cache.head_dim)
        throw std::invalid_argument("qkv columns " + std::to_string(qkv.columns) + " do not fit " +
                                    std::to_string(cache.kv_heads) + " kv heads of " +
                                    std::to_string(cache.head_dim));
    expect_shape("attention result", y, batch.tokens, heads * cache.head_dim);
    for (int64_t row = 0; row < batch.tokens; ++row)
        expect_below("batch.positions", batch.positions[row], rotary.max_positions);
    const std::lock_guard<std::mutex> lock(mutex_);
    int32_t* sequences = grow(row_sequences_, batch.tokens);
    int32_t* slots = grow(row_slots_, batch.tokens);
    locate_rows(batch, cache, sequences, slots);
    const int64_t group = heads / cache.kv_heads;
    plan_attention(batch.query_starts, batch.context_lengths, batch.sequences, cache.kv_heads, group, plan_);
    std::atomic<int64_t> next_unit{0};
    const AttentionTask task{cache.view(),
                             qkv.data,
                             rotary.cosines,
                             rotary.sines,
                             rotary.interleaved,
                             batch.positions,
                             sequences,
                             slots,
                             batch.block_tables,
                             batch.table_width,
                             batch.tokens,
                             heads,
                             grow(queries_, (batch.tokens * heads + kRowTile) * cache.stride),
                             grow(partials_, plan_.partial_rows * (cache.stride + 2)),
                             y.data,
                             grow(scratch_, pool_.size() * attention_scratch(cache.stride)),
                             plan_.units.data(),
                             int64_t(plan_.units.size()),
                             plan_.joins.data(),
                             int64_t(plan_.joins.size()),
                             &next_unit};
    run(kernels_.append, task, 2 * qkv.rows * qkv.columns);
    run(kernels_.attend, task, attended_keys(slots, batch.tokens) * heads * cache.stride * 2);
    run(kernels_.join, task, plan_.partial_rows * cache.stride);
}

// `asked` comes without logits, their sizes and scratch memory.
void Ops::choose(Matrix logits, const ChoiceTask& asked) {
    expect_below("logits columns", 0, logits.columns);
    for (int64_t row = 0; row < logits.rows; ++row) {
        if (!(asked.temperatures[row] > 0)) throw std::invalid_argument("temperatures must be above 0");
        if (!(asked.top_p[row] > 0)) throw std::invalid_argument("top_p must be above 0");
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    ChoiceTask task = asked;
    task.logits = logits.data;
    task.rows = logits.rows;
    task.width = task.stride = logits.columns;
    task.weights = grow(scratch_, 2 * pool_.size() * logits.columns);
    run(kernels_.choose, task, 16 * logits.rows * logits.columns);
}

void Ops::lm_head(Matrix hidden, const PackedLinear& head, const BatchView& batch, Matrix y) {
    expect("head panel width", head.panel, kernels_.panel);
    expect("lm_head input columns", hidden.columns, head.inputs);
    expect_shape("logits", y, batch.num_logit_rows, head.outputs);
    for (int64_t row = 0; row < batch.num_logit_rows; ++row)
        expect_below("batch.logit_rows", batch.logit_rows[row], hidden.rows);
    const std::lock_guard<std::mutex> lock(mutex_);
    float* rows = grow(hidden_, batch.num_logit_rows * head.inputs);
    for (int64_t row = 0; row < batch.num_logit_rows; ++row)
        std::copy_n(hidden.data + batch.logit_rows[row] * head.inputs, head.inputs, rows + row * head.inputs);
    multiply(rows, batch.num_logit_rows, head, y.data);
}

}  // namespace ernie
