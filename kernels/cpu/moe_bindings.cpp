// The Python side of layers of experts.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ernie {
namespace {

using Packed = std::shared_ptr<PackedLinear>;

// Both share the packed weights with the Python objects that were given.
void make_bank(ExpertBank* self, Packed router, nb::handle bias, int64_t experts_per_token,
               int64_t first_expert, const std::vector<Packed>& gate_up, const std::vector<Packed>& down) {
    const Buffer values("correction_bias", bias, 'f', 1);
    if (gate_up.size() != down.size()) throw std::invalid_argument("an expert is gate_up and down");
    ExpertBank bank{std::move(router), {}, experts_per_token, first_expert, {}};
    bank.bias.assign(values.data<float>(), values.data<float>() + values.size(0));
    for (size_t i = 0; i < gate_up.size(); ++i) bank.experts.push_back({gate_up[i], down[i]});
    new (self) ExpertBank(std::move(bank));
}

void make_layer(MoeLayer* self, const Ops& ops, const std::vector<const ExpertBank*>& banks,
                Packed shared_gate_up, Packed shared_down) {
    MoeLayer layer{{}, {std::move(shared_gate_up), std::move(shared_down)}};
    for (const ExpertBank* bank : banks) layer.banks.push_back(*bank);
    layer.check(ops.panel());
    new (self) MoeLayer(std::move(layer));
}

void moe(Ops& ops, nb::handle x, const MoeLayer& layer, const Batch& batch, nb::handle result) {
    const Buffer input("x", x, 'f', 2), y("result", result, 'f', 2, true);
    const nb::gil_scoped_release release;
    ops.moe(matrix(input), layer, batch, matrix(y));
}

}  // namespace

void bind_moe(nb::module_& module, nb::class_<Ops>& ops) {
    nb::class_<ExpertBank>(module, "ExpertBank", "A router and its experts.")
        .def("__init__", &make_bank, "router"_a, "correction_bias"_a, "experts_per_token"_a, "first_expert"_a,
             "gate_up"_a, "down"_a);
    nb::class_<MoeLayer>(module, "MoeLayer", "A layer of experts.")
        .def("__init__", &make_layer, "ops"_a, "banks"_a, "shared_gate_up"_a.none(), "shared_down"_a.none());
    ops.def("moe", &moe, "x"_a, "layer"_a, "batch"_a, "result"_a);
}

}  // namespace ernie
