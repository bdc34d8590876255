// Products of rows and packed weights: rows are rounded as the weight says, then all threads multiply.
#include <algorithm>
#include <atomic>

#include "checks.hpp"
#include "ops.hpp"

namespace ernie {
namespace {

constexpr int64_t kChunkBytes = 64 << 10;  // weights that a thread takes at a time
// So many rows are read again for every chunk: fewer chunks, whose weights stay in the second cache.
constexpr int64_t kManyRows = 256, kManyRowsChunkBytes = 256 << 10;
// Panels of a gate that a thread takes at a time, with those of up: fewer if threads would get less than a few.
constexpr int64_t kSlicePanels = 4, kSlicesPerThread = 4;
constexpr int64_t kSliceRows = 512;      // more would not stay in the second cache
constexpr int64_t kGatheredAtOnce = 16;  // bytes copied in the time of a multiply-add
constexpr float kInt8Levels = 127, kInt16Levels = 127 * 128;

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

int64_t code_bytes(const PackedLinear& weight) {
    return weight.in_quads && weight.activation != Activation::Int16 ? sizeof(int8_t) : sizeof(int16_t);
}

// Items of a row in bfloat16; none where the weight is not multiplied by such rows.
int64_t rounded_stride(const PackedLinear& weight) {
    return weight.activation == Activation::Bfloat16 ? (weight.inputs + kDepth - 1) / kDepth * kDepth : 0;
}

}  // namespace

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
        const size_t i = product_of(chunk);
        kernels_.linear(products_[i], chunk - chunk_ends_[i], chunk_ends_[i + 1] - chunk_ends_[i]);
    });
}

// The number of the product that a chunk belongs to.
size_t Ops::product_of(int chunk) const {
    return size_t(std::upper_bound(chunk_ends_.begin(), chunk_ends_.end(), chunk) - chunk_ends_.begin()) - 1;
}

// Products of gate_up and their SwiGLU: y is [rows][outputs / 2]. A thread takes some outputs of the gate and
// the same of up, of up to kSliceRows rows: they stay in its second cache.
void Ops::multiply_gated(const std::vector<Product>& of_all_rows) {
    std::vector<Product> products;
    for (const Product& product : of_all_rows) {
        const int64_t inputs = product.weight->inputs, width = product.weight->outputs / 2, rows = product.rows;
        const int64_t blocks = (rows + kSliceRows - 1) / kSliceRows;
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t begin = rows * i / blocks, end = rows * (i + 1) / blocks;
            products.push_back({product.weight, product.x + begin * inputs, end - begin,
                                product.y + begin * width, nullptr, product.codes,
                                product.codes ? product.code_rows + begin : nullptr});
        }
    }
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
            const size_t i = product_of(chunk);
            const int64_t panel = (chunk - chunk_ends_[i]) * step;
            multiply_slice(products[i], products_[i], panel, step, slices + part * size);
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

}  // namespace ernie
