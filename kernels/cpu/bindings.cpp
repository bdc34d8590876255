// The Python module `_cpu`: borrows NumPy buffers, releases the GIL, calls Ops.
#include "bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>

#include "checks.hpp"
#include "dispatch.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ernie {
namespace {

int64_t positive(const char* name, int64_t value) {
    if (value > 0) return value;
    throw std::invalid_argument(std::string(name) + " " + std::to_string(value) + " must be positive");
}

std::vector<int32_t> copied(const Buffer& array) {
    const int32_t* data = array.data<int32_t>();
    return {data, data + array.items()};
}

std::vector<int32_t> copied(const char* name, nb::handle array) { return copied(Buffer(name, array, 'i', 1)); }

// (T,), (A, T), (S + 1,), (S,), (S, B), (R,), (M,), (W,).
void make_batch(Batch* self, nb::handle token_ids, nb::handle positions, nb::handle query_starts,
                nb::handle context_lengths, nb::handle block_tables, nb::handle logit_rows,
                nb::handle media_rows, nb::handle vision_rows) {
    const Buffer tables("batch.block_tables", block_tables, 'i', 2);
    Batch batch{copied("batch.token_ids", token_ids),
                copied(Buffer("batch.positions", positions, 'i', 2)),
                copied("batch.query_starts", query_starts),
                copied("batch.context_lengths", context_lengths),
                copied(tables),
                copied("batch.logit_rows", logit_rows),
                copied("batch.media_rows", media_rows),
                copied("batch.vision_rows", vision_rows),
                tables.size(1),
                {},
                {}};
    batch.check();
    new (self) Batch(std::move(batch));
}

// Cosines and sines (max_positions, head_dim / 2), held as long as the table; the axis of each pair.
class Rotary {
  public:
    Rotary(nb::handle cosines, nb::handle sines, const std::vector<int32_t>& axes, bool interleaved)
        : id_(++last_id_),
          cosines_("cosines", cosines, 'f', 2),
          sines_("sines", sines, 'f', 2),
          axes_(axes),
          interleaved_(interleaved) {
        if (cosines_.size(0) != sines_.size(0) || cosines_.size(1) != sines_.size(1))
            throw std::invalid_argument("cosines and sines must have the same shape");
        if (!axes_.empty()) expect("axes length", int64_t(axes_.size()), cosines_.size(1));
        for (const int32_t axis : axes_) {
            expect_below("axes", axis, cosines_.size(1));
            num_axes_ = std::max(num_axes_, int64_t(axis) + 1);
        }
    }

    RotaryView view() const {
        return {id_,       cosines_.data<float>(), sines_.data<float>(), axes_,
                num_axes_, cosines_.size(0),       2 * cosines_.size(1), interleaved_};
    }

  private:
    static inline std::atomic<int64_t> last_id_ = 0;
    int64_t id_;
    Buffer cosines_, sines_;
    std::vector<int32_t> axes_;
    int64_t num_axes_ = 1;
    bool interleaved_;
};

Activation activation_named(const std::string& name) {
    if (name == "float32") return Activation::Float32;
    if (name == "bfloat16") return Activation::Bfloat16;
    if (name == "int16") return Activation::Int16;
    if (name == "int8") return Activation::Int8;
    throw std::invalid_argument("activation '" + name + "' must be float32, bfloat16, int16 or int8");
}

CacheKind cache_kind_named(const std::string& name) {
    if (name == "float32") return CacheKind::Float32;
    if (name == "bfloat16") return CacheKind::Bfloat16;
    if (name == "int8") return CacheKind::Int8;
    throw std::invalid_argument("cache dtype '" + name + "' must be float32, bfloat16 or int8");
}

// Both or neither are given: static scales (kv_heads, head_dim) of an int8 cache.
void make_cache(LayerCache* self, int64_t num_blocks, int64_t block_size, int64_t kv_heads, int64_t head_dim,
                const std::string& dtype, nb::handle key_scales, nb::handle value_scales) {
    const CacheKind kind = cache_kind_named(dtype);
    positive("num_blocks", num_blocks), positive("block_size", block_size);
    positive("num_kv_heads", kv_heads), positive("head_dim", head_dim);
    if (key_scales.is_none() && value_scales.is_none()) {
        new (self) LayerCache(num_blocks, block_size, kv_heads, head_dim, kind, nullptr, nullptr);
        return;
    }
    const Buffer keys("key_scales", key_scales, 'f', 2), values("value_scales", value_scales, 'f', 2);
    for (const Buffer* scales : {&keys, &values})
        if (kind != CacheKind::Int8 || scales->size(0) != kv_heads || scales->size(1) != head_dim)
            throw std::invalid_argument("static scales are of an int8 cache, kv_heads times head_dim");
    new (self)
        LayerCache(num_blocks, block_size, kv_heads, head_dim, kind, keys.data<float>(), values.data<float>());
}

PackedLinear pack_unscaled(Ops& ops, WeightKind kind, Activation activation, const Buffer& source) {
    const nb::gil_scoped_release release;
    return ops.pack(kind, activation, positive("weight rows", source.size(0)),
                    positive("weight columns", source.size(1)), kQuadDepth, source.data<void>(), {});
}

PackedLinear pack_float32(Ops& ops, nb::handle values) {
    return pack_unscaled(ops, WeightKind::Float32, Activation::Float32, Buffer("weight", values, 'f', 2));
}

PackedLinear pack_bfloat16(Ops& ops, nb::handle bits, bool rounds_activations) {
    const auto activation = rounds_activations ? Activation::Bfloat16 : Activation::Float32;
    return pack_unscaled(ops, WeightKind::Bfloat16, activation, Buffer("weight", bits, 'H', 2));
}

PackedLinear pack_codes(Ops& ops, WeightKind kind, const Buffer& source, int64_t inputs, nb::handle scales,
                        const std::string& activation, int64_t group) {
    const Buffer factors("scales", scales, 'f', 1);
    if (factors.size(0) != source.size(0))
        throw std::invalid_argument("scales has length " + std::to_string(factors.size(0)) + ", expected " +
                                    std::to_string(source.size(0)));
    const Activation rounding = activation_named(activation);
    const nb::gil_scoped_release release;
    return ops.pack(kind, rounding, positive("weight rows", source.size(0)), positive("weight columns", inputs),
                    group, source.data<void>(), {factors.data<float>(), nullptr});
}

PackedLinear pack_int8(Ops& ops, nb::handle codes, nb::handle scales, const std::string& activation,
                       int64_t group) {
    const Buffer source("codes", codes, 'b', 2);
    return pack_codes(ops, WeightKind::Int8, source, source.size(1), scales, activation, group);
}

void check_int4(const Buffer& packed, int64_t inputs) {
    if (packed.size(1) != (inputs + 1) / 2)
        throw std::invalid_argument("packed has " + std::to_string(packed.size(1)) + " columns, expected " +
                                    std::to_string((inputs + 1) / 2) + " for " + std::to_string(inputs) +
                                    " inputs");
}

PackedLinear pack_grouped_int4(Ops& ops, nb::handle packed, int64_t inputs, nb::handle scales,
                               const std::string& activation, int64_t group) {
    const Buffer source("packed", packed, 'B', 2), factors("scales", scales, 'H', 2);
    check_int4(source, positive("weight columns", inputs));
    if (factors.size(0) != source.size(0) || factors.size(1) != groups_of(inputs))
        throw std::invalid_argument("scales must be " + std::to_string(source.size(0)) + " times " +
                                    std::to_string(groups_of(inputs)));
    const Activation rounding = activation_named(activation);
    const nb::gil_scoped_release release;
    return ops.pack(WeightKind::Int4, rounding, positive("weight rows", source.size(0)), inputs, group,
                    source.data<void>(), {nullptr, factors.data<uint16_t>()});
}

PackedLinear pack_int4(Ops& ops, nb::handle packed, int64_t inputs, nb::handle scales,
                       const std::string& activation, int64_t group) {
    const Buffer source("packed", packed, 'B', 2);
    check_int4(source, inputs);
    return pack_codes(ops, WeightKind::Int4, source, inputs, scales, activation, group);
}

PackedLinear pack_w4a8(Ops& ops, nb::handle packed, int64_t inputs, nb::handle scales, float input_scale,
                       int64_t rotation) {
    const Buffer source("packed", packed, 'B', 2), factors("scales", scales, 'f', 1);
    if (source.size(1) != (inputs + 1) / 2 || factors.size(0) != source.size(0))
        throw std::invalid_argument(
            "packed and scales must have the weight's rows, packed a byte for two inputs");
    positive("weight rows", source.size(0)), positive("weight columns", inputs);
    const nb::gil_scoped_release release;
    return ops.pack_w4a8(source.size(0), inputs, source.data<void>(), factors.data<float>(), input_scale,
                         rotation);
}

nb::ndarray<nb::numpy, float, nb::ndim<2>> empty(Ops& ops, size_t rows, size_t columns) {
    auto memory = std::make_unique<Memory>(ops.results().take(rows * columns * sizeof(float)));
    const nb::capsule owner(memory.get(), [](void* held) noexcept { delete static_cast<Memory*>(held); });
    return {memory.release()->get(), {rows, columns}, owner};
}

void embed(Ops& ops, const PackedLinear& table, const Batch& batch, nb::handle result) {
    const Buffer y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.embed(table, batch, matrix(y));
}

void norm(Ops& ops, nb::handle x, nb::handle weight, float epsilon, nb::handle result) {
    const Buffer input("x", x, 'f', 2), factors("weight", weight, 'f', 1), y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.norm(matrix(input), nullptr, factors.data<float>(), factors.size(0), epsilon, nullptr, matrix(y));
}

void add_norm(Ops& ops, nb::handle x, nb::handle delta, nb::handle weight, float epsilon, nb::handle residual,
              nb::handle result) {
    const Buffer input("x", x, 'f', 2), addend("delta", delta, 'f', 2), factors("weight", weight, 'f', 1);
    const Buffer sum("residual", residual, 'f', 2, true), y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    const Matrix added = matrix(addend);
    Matrix total = matrix(sum);
    ops.norm(matrix(input), &added, factors.data<float>(), factors.size(0), epsilon, &total, matrix(y));
}

void linear(Ops& ops, nb::handle x, const PackedLinear& weight, nb::handle bias, nb::handle result) {
    const Buffer input("x", x, 'f', 2), y("result", result, 'f', 2, true);
    if (bias.is_none()) {
        const nb::gil_scoped_release release;
        return ops.linear(matrix(input), weight, nullptr, matrix(y));
    }
    const Buffer shift("bias", bias, 'f', 1);
    const nb::gil_scoped_release release;
    const Vector addend{shift.data<float>(), shift.size(0)};
    ops.linear(matrix(input), weight, &addend, matrix(y));
}

void mlp(Ops& ops, nb::handle x, const PackedLinear& gate_up, const PackedLinear& down, nb::handle result) {
    const Buffer input("x", x, 'f', 2), y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.mlp(matrix(input), gate_up, down, matrix(y));
}

void attention(Ops& ops, nb::handle qkv, const Rotary& rotary, LayerCache& cache, Batch& batch,
               nb::handle result) {
    const Buffer input("qkv", qkv, 'f', 2), y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.attention(matrix(input), rotary.view(), cache, batch, matrix(y));
}

void put_rows(Ops& ops, nb::handle x, nb::handle media, const Batch& batch, nb::handle result) {
    const Buffer input("x", x, 'f', 2), given("media", media, 'f', 2), y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.put_rows(matrix(input), matrix(given), batch, matrix(y));
}

void lm_head(Ops& ops, nb::handle hidden, const PackedLinear& head, const Batch& batch, nb::handle places,
             int64_t vocab_size, nb::handle result, nb::handle chosen) {
    const Buffer input("hidden", hidden, 'f', 2), y("logits", result, 'f', 2, true);
    const Buffer greedy("greedy", places, 'i', 1), tokens("tokens", chosen, 'l', 1, true);
    expect("tokens length", tokens.size(0), greedy.size(0));
    const GreedyRows rows{greedy.data<const int32_t>(), greedy.size(0), vocab_size, tokens.data<int64_t>()};
    const nb::gil_scoped_release release;
    ops.lm_head(matrix(input), head, batch, rows, matrix(y));
}

void sample(Ops& ops, nb::handle logits, nb::handle batch, nb::handle result) {
    const Buffer x("logits", logits, 'f', 2), rows("batch", batch, SamplingRow::kFormat, 1);
    const Buffer y("tokens", result, 'l', 1, true);
    if (rows.size(0) != x.size(0) || y.size(0) != x.size(0))
        throw std::invalid_argument("each row of logits needs a row of the batch and a token");
    const nb::gil_scoped_release release;
    ops.sample(matrix(x), rows.data<const SamplingRow>(), y.data<int64_t>());
}

void mask(Ops& ops, nb::handle logits, nb::handle masks, nb::handle rows) {
    const Buffer x("logits", logits, 'f', 2, true), words("masks", masks, 'I', 2), places("rows", rows, 'l', 1);
    if (words.size(0) != places.size(0)) throw std::invalid_argument("each mask needs a row of logits");
    const nb::gil_scoped_release release;
    ops.mask(matrix(x), words.data<const uint32_t>(), words.size(1), places.data<const int64_t>(),
             places.size(0));
}

void bind_data(nb::module_& module) {
    nb::class_<PackedLinear>(module, "PackedLinear", "A packed weight.")
        .def_ro("outputs", &PackedLinear::outputs)
        .def_ro("inputs", &PackedLinear::inputs);
    nb::class_<LayerCache>(module, "LayerCache", "The paged KV cache of one layer.")
        .def("__init__", &make_cache, "num_blocks"_a, "block_size"_a, "num_kv_heads"_a, "head_dim"_a, "dtype"_a,
             "key_scales"_a.none(), "value_scales"_a.none())
        .def_ro("num_kv_heads", &LayerCache::kv_heads)
        .def_ro("head_dim", &LayerCache::head_dim);
    nb::class_<Batch>(module, "Batch", "A step's index arrays, copied.")
        .def("__init__", &make_batch, "token_ids"_a, "positions"_a, "query_starts"_a, "context_lengths"_a,
             "block_tables"_a, "logit_rows"_a, "media_rows"_a, "vision_rows"_a)
        .def_prop_ro("tokens", &Batch::tokens)
        .def_prop_ro("num_logit_rows", &Batch::num_logit_rows);
    nb::class_<Rotary>(module, "Rotary", "A table of rotary embeddings.")
        .def(nb::init<nb::handle, nb::handle, const std::vector<int32_t>&, bool>(), "cosines"_a, "sines"_a,
             "axes"_a, "interleaved"_a);
}

}  // namespace
}  // namespace ernie

NB_MODULE(_cpu, module) {
    using namespace ernie;
    module.doc() = "C++ kernels over borrowed NumPy buffers. Wrong sizes or indices raise ValueError.";
    nb::set_leak_warnings(false);  // a Python global may hold an Ops until the interpreter exits
    bind_data(module);
    module.def("instruction_sets", &instruction_sets, "include_lowered"_a);
    nb::class_<Ops> ops(module, "Ops", "The ops of one thread pool and instruction set.");
    bind_moe(module, ops);
    bind_patches(module, ops);
    ops.def(nb::init<int, const std::string&>(), "threads"_a, "instruction_set"_a)
        .def_prop_ro("instruction_set", &Ops::instruction_set)
        .def("pack_float32", &pack_float32, "values"_a)
        .def("pack_bfloat16", &pack_bfloat16, "bits"_a, "rounds_activations"_a)
        .def("pack_int8", &pack_int8, "codes"_a, "scales"_a, "activation"_a, "group"_a)
        .def("pack_int4", &pack_int4, "packed"_a, "inputs"_a, "scales"_a, "activation"_a, "group"_a)
        .def("pack_grouped_int4", &pack_grouped_int4, "packed"_a, "inputs"_a, "scales"_a, "activation"_a,
             "group"_a)
        .def("pack_w4a8", &pack_w4a8, "packed"_a, "inputs"_a, "scales"_a, "input_scale"_a, "rotation"_a)
        .def("empty", &empty, "rows"_a, "columns"_a)
        .def("embed", &embed, "table"_a, "batch"_a, "result"_a)
        .def("norm", &norm, "x"_a, "weight"_a, "epsilon"_a, "result"_a)
        .def("add_norm", &add_norm, "x"_a, "delta"_a, "weight"_a, "epsilon"_a, "residual"_a, "result"_a)
        .def("linear", &linear, "x"_a, "weight"_a, "bias"_a.none(), "result"_a)
        .def("mlp", &mlp, "x"_a, "gate_up"_a, "down"_a, "result"_a)
        .def("attention", &attention, "qkv"_a, "rotary"_a, "cache"_a, "batch"_a, "result"_a)
        .def("put_rows", &put_rows, "x"_a, "media"_a, "batch"_a, "result"_a)
        .def("sample", &sample, "logits"_a, "batch"_a, "tokens"_a)
        .def("mask", &mask, "logits"_a, "masks"_a, "rows"_a)
        .def("lm_head", &lm_head, "hidden"_a, "head"_a, "batch"_a, "greedy"_a, "vocab_size"_a, "logits"_a,
             "tokens"_a);
}
