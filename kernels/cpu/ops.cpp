#include "ops.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "checks.hpp"
#include "dispatch.hpp"

namespace ernie {
namespace {

constexpr int kMostThreads = 1024;
constexpr int64_t kMostStaticInputs = 1 << 20;  // and those of a whole row: 2 ** 20 * 15 * 127

int checked_threads(int threads) {
    if (threads >= 1 && threads <= kMostThreads) return threads;
    throw std::invalid_argument("threads " + std::to_string(threads) + " must be 1 to " +
                                std::to_string(kMostThreads));
}

// Whether an integer sum can end where one of its scales does: that of the activations or of the weight.
bool fits_scale_group(Activation activation, int64_t group) {
    if (activation == Activation::Int8) return kScaleGroup % group == 0;
    return activation != Activation::Int16 || kScaleGroup % group == 0 || group % kScaleGroup == 0;
}

}  // namespace

void expect_shape(const char* name, const Matrix& x, int64_t rows, int64_t columns) {
    expect((std::string(name) + " rows").c_str(), x.rows, rows);
    expect((std::string(name) + " columns").c_str(), x.columns, columns);
}

Ops::Ops(int threads, const std::string& instruction_set)
    : kernels_(kernels_for(instruction_set)), pool_(checked_threads(threads)) {}

PackedLinear Ops::pack(WeightKind kind, Activation activation, int64_t outputs, int64_t inputs, int64_t group,
                       const void* source, const WeightScales& scales) {
    if (group < kDepth || group % kDepth || group > kLargestGroup)
        throw std::invalid_argument("activation group " + std::to_string(group) + " must be a multiple of " +
                                    std::to_string(kDepth) + " up to " + std::to_string(kLargestGroup));
    if (scales.of_groups && !fits_scale_group(activation, group))
        throw std::invalid_argument("activation group " + std::to_string(group) + " must divide the " +
                                    std::to_string(kScaleGroup) + " inputs of a scale of the weight" +
                                    (activation == Activation::Int16 ? ", or be a multiple of them" : ""));
    if (activation == Activation::Bfloat16 && kind != WeightKind::Bfloat16)
        throw std::invalid_argument("activation bfloat16 goes with bfloat16 weights only");
    const std::lock_guard<std::mutex> lock(mutex_);
    return pack_linear(kernels_, kind, activation, outputs, inputs, group, source, scales, pool_);
}

PackedLinear Ops::pack_w4a8(int64_t outputs, int64_t inputs, const void* source, const float* scales,
                            float input_scale, int64_t rotation) {
    if (inputs > kMostStaticInputs)
        throw std::invalid_argument("weight columns " + std::to_string(inputs) + " must be at most " +
                                    std::to_string(kMostStaticInputs));
    if (rotation &&
        (rotation < 2 || rotation > kLargestRotation || rotation & (rotation - 1) || inputs % rotation))
        throw std::invalid_argument("rotation " + std::to_string(rotation) + " must be a power of two up to " +
                                    std::to_string(kLargestRotation) + " that divides the columns " +
                                    std::to_string(inputs));
    if (!(input_scale >= 0 && std::isfinite(input_scale)))
        throw std::invalid_argument("input_scale must be finite and not negative");
    const int64_t group = (inputs + kQuadDepth - 1) / kQuadDepth * kQuadDepth;
    const std::lock_guard<std::mutex> lock(mutex_);
    PackedLinear packed = pack_linear(kernels_, WeightKind::Int4, Activation::StaticInt8, outputs, inputs,
                                      group, source, {scales, nullptr}, pool_);
    packed.input_scale = input_scale;
    packed.rotation = rotation;
    return packed;
}

void Ops::embed(const PackedLinear& table, const Batch& batch, Matrix y) {
    expect("table panel width", table.panel, kernels_.panel);
    expect_shape("embed result", y, batch.tokens(), table.inputs);
    for (const int32_t token : batch.token_ids)
        if (token != kElsewhere) expect_below("batch.token_ids", token, table.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    run(kernels_.embed, EmbedTask{table.view(), batch.token_ids.data(), y.data, batch.tokens()},
        16 * batch.tokens() * table.inputs);
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
        NormTask{x.data, delta ? delta->data : nullptr, weight, nullptr, residual ? residual->data : nullptr,
                 y.data, x.rows, x.columns, epsilon},
        2 * x.rows * x.columns);
}

void Ops::put_rows(Matrix x, Matrix media, const Batch& batch, Matrix y) {
    expect("put_rows rows", x.rows, batch.tokens());
    expect_shape("media", media, int64_t(batch.media_rows.size()), x.columns);
    expect_shape("put_rows result", y, x.rows, x.columns);
    std::copy_n(x.data, x.rows * x.columns, y.data);
    for (const float* next = media.data; const int32_t row : batch.media_rows) {
        std::copy_n(next, x.columns, y.data + row * x.columns);
        next += x.columns;
    }
}

void Ops::attention(Matrix qkv, const RotaryView& rotary, LayerCache& cache, Batch& batch, Matrix y) {
    expect("qkv rows", qkv.rows, batch.tokens());
    expect("rotary head_dim", rotary.head_dim, cache.head_dim);
    const int64_t heads = qkv.columns / cache.head_dim - 2 * cache.kv_heads;
    if (heads <= 0 || heads % cache.kv_heads || qkv.columns % cache.head_dim)
        throw std::invalid_argument("qkv columns " + std::to_string(qkv.columns) + " do not fit " +
                                    std::to_string(cache.kv_heads) + " kv heads of " +
                                    std::to_string(cache.head_dim));
    expect_shape("attention result", y, qkv.rows, heads * cache.head_dim);
    const std::lock_guard<std::mutex> lock(mutex_);
    const RowAngles& angles = batch.row_angles(rotary);
    const AttentionPlan& plan =
        batch.attention_plan({cache.num_blocks, cache.block_size, cache.kv_heads, heads / cache.kv_heads});
    std::atomic<int64_t> next_unit{0};
    const AttentionTask task{cache.view(),
                             qkv.data,
                             angles.cosines.data(),
                             angles.sines.data(),
                             rotary.interleaved,
                             plan.row_sequences.data(),
                             plan.row_slots.data(),
                             batch.block_tables.data(),
                             batch.table_width,
                             qkv.rows,
                             heads,
                             grow(queries_, (qkv.rows * heads + kRowTile) * cache.stride),
                             grow(partials_, plan.partial_rows * (cache.stride + 2)),
                             y.data,
                             grow(scratch_, pool_.size() * attention_scratch(cache.stride)),
                             plan.units.data(),
                             int64_t(plan.units.size()),
                             plan.joins.data(),
                             int64_t(plan.joins.size()),
                             &next_unit};
    run(kernels_.append, task, 2 * qkv.rows * qkv.columns);
    run(kernels_.attend, task, plan.attended_keys * heads * cache.stride * 2);
    run(kernels_.join, task, plan.partial_rows * cache.stride);
}

void Ops::sample(Matrix logits, const SamplingRow* batch, int64_t* tokens) {
    expect_below("logits columns", 0, logits.columns);
    for (int64_t row = 0; row < logits.rows; ++row) {
        if (!(batch[row].temperature > 0)) throw std::invalid_argument("temperature must be above 0");
        if (!(batch[row].top_p > 0)) throw std::invalid_argument("top_p must be above 0");
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    const SamplingTask task{
        logits.data, batch, logits.rows, logits.columns, grow(scratch_, 2 * pool_.size() * logits.columns),
        tokens};
    run(kernels_.sample, task, 16 * logits.rows * logits.columns);
}

void Ops::mask(Matrix logits, const uint32_t* masks, int64_t words, const int64_t* rows, int64_t count) {
    expect_below("mask words", words, (logits.columns + 31) / 32 + 1);
    for (int64_t i = 0; i < count; ++i) {
        expect_below("rows", rows[i], logits.rows);
        if (i && rows[i] <= rows[i - 1]) throw std::invalid_argument("rows must rise");
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    run(kernels_.mask, MaskTask{logits.data, masks, rows, count, logits.columns, words},
        count * logits.columns);
}

}  // namespace ernie
