// The Python side of the ops of vision towers.
#include <nanobind/stl/string.h>

#include "bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ernie {
namespace {

Vector vector(const Buffer& buffer) { return {buffer.data<float>(), buffer.size(0)}; }

GeluKind gelu_named(const std::string& name) {
    if (name == "erf") return GeluKind::Erf;
    if (name == "tanh") return GeluKind::Tanh;
    if (name == "quick") return GeluKind::Quick;
    throw std::invalid_argument("gelu '" + name + "' must be erf, tanh or quick");
}

void make_patches(PatchCache* self, int64_t rows, int64_t frame, int64_t num_heads, int64_t head_dim,
                  const std::string& dtype) {
    if (dtype != "float32" && dtype != "bfloat16")
        throw std::invalid_argument("dtype '" + dtype + "' of patches must be float32 or bfloat16");
    const CacheKind kind = dtype == "float32" ? CacheKind::Float32 : CacheKind::Bfloat16;
    new (self) PatchCache(rows, frame, num_heads, head_dim, kind);
}

void layer_norm(Ops& ops, nb::handle x, nb::handle weight, nb::handle bias, float epsilon, nb::handle result) {
    const Buffer input("x", x, 'f', 2), factors("weight", weight, 'f', 1), shift("bias", bias, 'f', 1);
    const Buffer y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.layer_norm(matrix(input), nullptr, vector(factors), vector(shift), epsilon, nullptr, matrix(y));
}

void add_layer_norm(Ops& ops, nb::handle x, nb::handle delta, nb::handle weight, nb::handle bias, float epsilon,
                    nb::handle residual, nb::handle result) {
    const Buffer input("x", x, 'f', 2), addend("delta", delta, 'f', 2), factors("weight", weight, 'f', 1);
    const Buffer shift("bias", bias, 'f', 1), sum("residual", residual, 'f', 2, true);
    const Buffer y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    const Matrix added = matrix(addend);
    Matrix total = matrix(sum);
    ops.layer_norm(matrix(input), &added, vector(factors), vector(shift), epsilon, &total, matrix(y));
}

void gelu_mlp(Ops& ops, nb::handle x, const PackedLinear& up, nb::handle up_bias, const PackedLinear& down,
              nb::handle down_bias, const std::string& gelu, nb::handle result) {
    const Buffer input("x", x, 'f', 2), first("up_bias", up_bias, 'f', 1),
        second("down_bias", down_bias, 'f', 1);
    const Buffer y("result", result, 'f', 2, true);
    const GeluKind kind = gelu_named(gelu);
    const nb::gil_scoped_release release;
    ops.gelu_mlp(matrix(input), up, vector(first), down, vector(second), kind, matrix(y));
}

void append_patches(Ops& ops, nb::handle qkv, nb::handle cosines, nb::handle sines, PatchCache& cache,
                    int64_t begin) {
    const Buffer input("qkv", qkv, 'f', 2), x("cosines", cosines, 'f', 2), y("sines", sines, 'f', 2);
    if (x.size(0) != y.size(0) || x.size(1) != y.size(1))
        throw std::invalid_argument("cosines and sines must have the same shape");
    const PatchAngles angles{x.data<float>(), y.data<float>(), x.size(0), 2 * x.size(1)};
    const nb::gil_scoped_release release;
    ops.append_patches(matrix(input), angles, cache, begin);
}

void attend_patches(Ops& ops, PatchCache& cache, int64_t begin, nb::handle result) {
    const Buffer y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.attend_patches(cache, begin, matrix(y));
}

}  // namespace

void bind_patches(nb::module_& module, nb::class_<Ops>& ops) {
    nb::class_<PatchCache>(module, "PatchCache", "Queries, keys and values of the patches of one layer.")
        .def("__init__", &make_patches, "rows"_a, "frame"_a, "num_heads"_a, "head_dim"_a, "dtype"_a)
        .def_ro("num_heads", &PatchCache::heads)
        .def_ro("head_dim", &PatchCache::head_dim);
    ops.def("layer_norm", &layer_norm, "x"_a, "weight"_a, "bias"_a, "epsilon"_a, "result"_a)
        .def("add_layer_norm", &add_layer_norm, "x"_a, "delta"_a, "weight"_a, "bias"_a, "epsilon"_a,
             "residual"_a, "result"_a)
        .def("gelu_mlp", &gelu_mlp, "x"_a, "up"_a, "up_bias"_a, "down"_a, "down_bias"_a, "gelu"_a, "result"_a)
        .def("append_patches", &append_patches, "qkv"_a, "cosines"_a, "sines"_a, "cache"_a, "begin"_a)
        .def("attend_patches", &attend_patches, "cache"_a, "begin"_a, "result"_a);
}

}  // namespace ernie
