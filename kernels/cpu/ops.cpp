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
constexpr int64_t kChunkBytes = 64 << 10;  // weights that a thread takes at a time
// So many rows are read again for every chunk: fewer chunks, whose weights stay in the second cache.
constexpr int64_t kManyRows = 256, kManyRowsChunkBytes = 256 << 10;
// Panels of a gate that a thread takes at a time, with those of up: fewer if threads would get less than a few.
constexpr int64_t kSlicePanels = 4, kSlicesPerThread = 4;
constexpr float kInt8Levels = 127, kInt16Levels = 127 * 128;
constexpr int64_t kMostStaticInputs = 1 << 20;  // and those of a whole row: 2 ** 20 * 15 * 127

int checked_threads(int threads) {
    if (threads >= 1 && threads <= kMostThreads) return threads;
    throw std::invalid_argument("threads " + std::to_string(threads) + " must be 1 to " +
                                std::to_string(kMostThreads));
}

int64_t panels_of_gate(const PackedLinear& gate_up) {
    return (gate_up.outputs / 2 + gate_up.panel - 1) / gate_up.panel;
}

// Sizes of a row of codes; all are 0 where the weight is multiplied by floats.
QuantizedRows quantized_shape(const PackedLinear& weight) {
    if (weight.activation == Activation::Float32 || weight.activation == Activation::Bfloat16) return {};
    const int64_t together = inputs_together(weight.kind, weight.in_quads);
    const int64_t stride = (weight.inputs + together - 1) / together * together;
    const int64_t groups = (weight.inputs + weight.group - 1) / weight.group;
    return {nullptr,
            nullptr,
            nullptr,
            stride,
            groups,
            weight.group,
            weight.activation == Activation::Int16 ? 2 : 1};
}

// Whether an integer sum can end where one of its scales does: that of the activations or of the weight.
bool fits_scale_group(Activation activation, int64_t group) {
    if (activation == Activation::Int8) return kScaleGroup % group == 0;
    return activation != Activation::Int16 || kScaleGroup % group == 0 || group % kScaleGroup == 0;
}

int64_t code_bytes(const PackedLinear& weight) {
    return weight.in_quads && weight.activation != Activation::Int16 ? sizeof(int8_t) : sizeof(int16_t);
}

constexpr int64_t kGatheredAtOnce = 16;  // bytes copied in the time of a multiply-add

// Items of a row in bfloat16; none where the weight is not multiplied by such rows.
int64_t rounded_stride(const PackedLinear& weight) {
    return weight.activation == Activation::Bfloat16 ? (weight.inputs + kDepth - 1) / kDepth * kDepth : 0;
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

// x [rows][inputs] to y [rows][outputs]; the mutex is held.
void Ops::multiply(const float* x, int64_t rows, const PackedLinear& weight, float* y) {
    multiply({{&weight, x, rows, y}});
}

// Fills `rows` with the codes of a product's inputs.
void Ops::quantize(const Product& product, const QuantizedRows& rows) {
    const PackedLinear& weight = *product.weight;
    const int64_t work = 4 * product.rows * weight.inputs;
    if (weight.activation == Activation::StaticInt8) {
        const StaticQuantizeTask task{product.x,          product.rows,    weight.inputs,
                                      weight.input_scale, weight.rotation, rows};
        return run(kernels_.quantize_static, task, work);
    }
    const float levels = weight.activation == Activation::Int16 ? kInt16Levels : kInt8Levels;
    run(kernels_.quantize, QuantizeTask{product.x, product.rows, weight.inputs, levels, rows}, work);
}

// Fills `rows` with those of product.codes.
void Ops::gather_codes(const Product& product, const QuantizedRows& rows) {
    const QuantizedRows& from = *product.codes;
    const int64_t bytes = rows.stride * code_bytes(*product.weight), groups = rows.groups;
    share_rows(product.rows, bytes / kGatheredAtOnce, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t source = product.code_rows[row];
            std::copy_n(static_cast<const std::byte*>(from.codes) + source * bytes, bytes,
                        static_cast<std::byte*>(rows.codes) + row * bytes);
            std::copy_n(from.scales + source * groups, groups, rows.scales + row * groups);
            if (rows.sums) std::copy_n(from.sums + source * groups, groups, rows.sums + row * groups);
        }
    });
}

// The codes of all rows of x for weights like this one, or none where it takes no such codes. They are good
// until the next call.
QuantizedRows Ops::quantize_once(Matrix x, const PackedLinear& weight) {
    if (weight.activation != Activation::Int16 && weight.activation != Activation::Int8) return {};
    QuantizedRows q = quantized_shape(weight);
    q.codes = grow(row_codes_, x.rows * q.stride * code_bytes(weight));
    q.scales = grow(row_scales_, x.rows * q.groups);
    if (weight.in_quads) q.sums = grow(row_sums_, x.rows * q.groups);
    quantize({&weight, x.data, x.rows, nullptr}, q);
    return q;
}

// Fills products_: inputs are rounded, all products into one scratch vector each for codes, scales and bfloat16
// items.
void Ops::prepare(const std::vector<Product>& products) {
    int64_t codes = 0, behind = 0, scales = 0, items = 0;
    // Sizes before pointers: growing a vector moves it.
    for (const Product& product : products) {
        const QuantizedRows q = quantized_shape(*product.weight);
        codes += product.rows * q.stride * code_bytes(*product.weight);
        behind = std::max(behind, kRowsTogether * q.stride);
        scales += product.rows * q.groups;
        items += (product.rows + kRowsTogether) * rounded_stride(*product.weight);
    }
    std::byte* next_codes = grow(codes_, codes + behind);
    float* next_scales = grow(scales_, scales);
    int32_t* next_sums = grow(sums_, scales);
    std::byte* next_items = grow(rounded_, items * kLargestItem);
    products_.clear();
    for (const Product& product : products) {
        const PackedLinear& weight = *product.weight;
        LinearTask task{weight.view(), product.x,   quantized_shape(weight), {}, product.y,
                        product.rows,  product.bias};
        if (const int64_t stride = rounded_stride(weight)) {
            task.rounded = {next_items, stride};
            next_items += (product.rows + kRowsTogether) * stride * kLargestItem;
            const RoundTask rounding{product.x, product.rows, weight.inputs, task.rounded};
            run(kernels_.round, rounding, product.rows * weight.inputs);
        } else if (QuantizedRows& q = task.quantized; weight.activation != Activation::Float32) {
            q.codes = next_codes;
            q.scales = next_scales;
            q.sums = weight.in_quads ? next_sums : nullptr;
            next_codes += product.rows * q.stride * code_bytes(weight);
            next_scales += product.rows * q.groups;
            next_sums += product.rows * q.groups;
            product.codes ? gather_codes(product, q) : quantize(product, q);
        }
        products_.push_back(task);
    }
}

// Several products as one set of chunks, so that no thread waits for another between two small weights.
//
// A product has as many chunks as its weight has kChunkBytes, and together there is at least one for every
// thread; chunk_ends_ holds running totals, in which a chunk's number finds its product.
void Ops::multiply(const std::vector<Product>& products) {
    prepare(products);
    int64_t work = 0;
    chunk_ends_.assign(1, 0);
    const int64_t least = (pool_.size() + int64_t(products.size()) - 1) / int64_t(products.size());
    for (const Product& product : products) {
        const PackedLinear& weight = *product.weight;
        work += product.rows * weight.inputs * weight.outputs;
        const int64_t chunk = product.rows < kManyRows ? kChunkBytes : kManyRowsChunkBytes;
        chunk_ends_.push_back(chunk_ends_.back() + int(std::max(least, weight.bytes / chunk)));
    }
    if (work < kSmallWork) {
        for (const LinearTask& task : products_) kernels_.linear(task, 0, 1);
        return;
    }
    pool_.run(chunk_ends_.back(), [&](int chunk, int) {
        const auto end = std::upper_bound(chunk_ends_.begin(), chunk_ends_.end(), chunk);
        kernels_.linear(products_[size_t(end - chunk_ends_.begin()) - 1], chunk - end[-1], end[0] - end[-1]);
    });
}

// Products of gate_up and their SwiGLU: y is [rows][outputs / 2]. A thread takes some outputs of the gate and
// the same of up, of all rows: they stay in its second cache.
void Ops::multiply_gated(const std::vector<Product>& products) {
    prepare(products);
    int64_t work = 0, most_rows = 0, panels = 0;
    for (const Product& product : products) panels += panels_of_gate(*product.weight);
    const int64_t step = std::clamp<int64_t>(panels / (kSlicesPerThread * pool_.size()), 1, kSlicePanels);
    chunk_ends_.assign(1, 0);
    for (const Product& product : products) {
        work += product.rows * product.weight->inputs * product.weight->outputs;
        most_rows = std::max(most_rows, product.rows);
        chunk_ends_.push_back(chunk_ends_.back() + int((panels_of_gate(*product.weight) + step - 1) / step));
    }
    const int64_t size = (2 * step + 1) * kernels_.panel * most_rows;
    float* slices = grow(scratch_, pool_.size() * size);
    std::atomic<int> next_chunk{0};
    pool_.run(work < kSmallWork ? 1 : pool_.size(), [&](int part, int) {
        for (int chunk; (chunk = next_chunk.fetch_add(1, std::memory_order_relaxed)) < chunk_ends_.back();) {
            const auto end = std::upper_bound(chunk_ends_.begin(), chunk_ends_.end(), chunk);
            const size_t i = size_t(end - chunk_ends_.begin()) - 1;
            multiply_slice(products[i], products_[i], (chunk - end[-1]) * step, step, slices + part * size);
        }
    });
}

// The outputs of at most `panels` panels, from `panel` on. Where those of up do not begin with a panel, one
// more has them.
void Ops::multiply_slice(const Product& gate_up, const LinearTask& product, int64_t panel, int64_t panels,
                         float* scratch) {
    const int64_t width = gate_up.weight->outputs / 2, first = panel * kernels_.panel;
    const int64_t columns = std::min(width - first, panels * kernels_.panel);
    LinearTask gate = product, up = product;
    gate.weight = gate_up.weight->view(panel, panels);
    gate.y = scratch;
    const int64_t skipped = (width + first) % kernels_.panel;
    up.weight = gate_up.weight->view((width + first) / kernels_.panel, panels + (skipped > 0));
    up.y = scratch + product.rows * gate.weight.outputs;
    kernels_.linear(gate, 0, 1);
    kernels_.linear(up, 0, 1);
    kernels_.swiglu({gate.y, gate.weight.outputs, up.y + skipped, up.weight.outputs, product.y + first, width,
                     product.rows, columns});
}

void Ops::linear(Matrix x, const PackedLinear& weight, const Vector* bias, Matrix y) {
    expect("weight panel width", weight.panel, kernels_.panel);
    expect("linear input columns", x.columns, weight.inputs);
    if (bias) expect("bias length", bias->size, weight.outputs);
    expect_shape("linear result", y, x.rows, weight.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    multiply({{&weight, x.data, x.rows, y.data, bias ? bias->data : nullptr}});
}

void Ops::mlp(Matrix x, const PackedLinear& gate_up, const PackedLinear& down, Matrix y) {
    expect("gate_up panel width", gate_up.panel, kernels_.panel);
    expect("down panel width", down.panel, kernels_.panel);
    expect("mlp input columns", x.columns, gate_up.inputs);
    expect("gate_up outputs", gate_up.outputs, 2 * down.inputs);
    expect_shape("mlp result", y, x.rows, down.outputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    transform(x, gate_up, down, y);
}

// The MLP of checked sizes; the mutex is held.
void Ops::transform(Matrix x, const PackedLinear& gate_up, const PackedLinear& down, Matrix y) {
    float* hidden = grow(hidden_, x.rows * down.inputs);
    multiply_gated({{&gate_up, x.data, x.rows, hidden}});
    multiply(hidden, x.rows, down, y.data);
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
