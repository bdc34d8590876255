"""The moe op of every backend: the choice of experts, their sum, and what must not matter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels.api import ExpertBank, MlpWeights
from ernie_kernels.cpu import _cpu
from ernie_kernels.formats import ActivationType, Float32Weight
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.reference.moe import moe as reference_moe
from ernie_kernels.reference.moe import route as reference_route
from ernie_kernels.routing import RouterWeights, Routing
from numerics.backends import BACKENDS, make_ops, to_host
from numerics.ops_cases import (
    ISAS,
    WEIGHT_TYPES,
    Floats,
    bits,
    cpu_ops,
    make_weight,
    plain_batch,
    random_floats,
)
from numerics.routing import routing_of

REFERENCE = ReferenceOps()
FLOAT32 = ActivationType.FLOAT32

backends = pytest.mark.parametrize("backend", BACKENDS)
isas = pytest.mark.parametrize("isa", ISAS)


@dataclass(frozen=True)
class Layer:
    """A layer of experts: ``values`` are (gate_up, down) of each, ``shared`` too if it is there."""

    router: RouterWeights
    experts: list[MlpWeights]
    shared: MlpWeights | None

    def packed(self, ops: Any, activation: ActivationType = FLOAT32) -> Any:
        return ops.pack_moe([ExpertBank(self.router, iter(self.experts))], self.shared, activation)


def apply(ops: Any, x: Any, packed: Any) -> Any:
    """The op, on a step of text."""
    return ops.moe(x, packed, ops.upload(plain_batch(len(to_host(x)))))


def make_mlp(seed: int, hidden: int, width: int, kind: str = "float32") -> MlpWeights:
    gate_up, down = random_floats(seed, 2 * width, hidden), random_floats(seed + 1, hidden, width)
    return MlpWeights(make_weight(gate_up, kind), make_weight(down, kind))


def make_layer(
    seed: int,
    hidden: int,
    width: int,
    experts: int,
    chosen: int,
    shared: int = 0,
    kinds: tuple[str, str] = ("float32", "float32"),
) -> Layer:
    """``kinds``: formats of the routed and of the shared experts; ``shared``: width of the latter."""
    gate, bias = random_floats(seed, experts, hidden), random_floats(seed + 1, experts, scale=0.1)
    return Layer(
        RouterWeights(gate, bias, chosen),
        [make_mlp(seed + 2 + 2 * expert, hidden, width, kinds[0]) for expert in range(experts)],
        make_mlp(seed + 1000, hidden, shared, kinds[1]) if shared else None,
    )


def run(backend: str, x: Floats, layer: Layer) -> tuple[Floats, Routing]:
    """The result of ``moe`` on any backend, and the choice behind it."""
    ops = make_ops(backend)
    given_x = ops.pack_vector(x)
    return to_host(apply(ops, given_x, layer.packed(ops))), routing_of(ops, layer.router, given_x)


def expected_sum(x: Floats, layer: Layer, routing: Routing, activation: ActivationType) -> Floats:
    """The sum over the experts that were chosen, row by row, in NumPy."""

    def mlp(row: Floats, weights: MlpWeights) -> Floats:
        packed = (REFERENCE.pack_linear(each, activation) for each in (weights.gate_up, weights.down))
        result: Floats = REFERENCE.mlp(row[None], *packed)[0]
        return result

    total = np.zeros_like(x)
    for row, values in enumerate(x):
        if layer.shared is not None:
            total[row] = mlp(values, layer.shared)
        for expert, weight in zip(routing.experts[row], routing.weights[row], strict=True):
            total[row] += weight * mlp(values, layer.experts[expert])
    return total


@backends
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 9), experts=st.integers(2, 9), data=st.data())
def test_parts_with_some_experts_each_add_up_to_the_whole(
    backend: str, seed: int, rows: int, experts: int, data: st.DataObject
) -> None:
    chosen, cut = data.draw(st.integers(1, experts)), data.draw(st.integers(1, experts - 1))
    layer, x = make_layer(seed, 24, 10, experts, chosen), random_floats(seed + 9, rows, 24)
    ops = make_ops(backend)

    def part(local: range) -> Floats:
        bank = ExpertBank(layer.router, (layer.experts[each] for each in local), local)
        packed = ops.pack_moe([bank], None, FLOAT32)
        return to_host(apply(ops, ops.pack_vector(x), packed))

    whole = part(range(experts))
    np.testing.assert_allclose(part(range(cut)) + part(range(cut, experts)), whole, rtol=1e-4, atol=1e-4)


@backends
def test_experts_that_the_router_does_not_have_are_refused(backend: str) -> None:
    layer, ops = make_layer(3, 24, 10, 4, 2), make_ops(backend)
    for local, message in (
        (range(3, 5), "local_experts is range"),
        (range(2), "there are 4 experts, the router has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.pack_moe([ExpertBank(layer.router, iter(layer.experts), local)], None, FLOAT32)


@isas
@pytest.mark.parametrize(("kind", "activation"), WEIGHT_TYPES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(0, 9),
    hidden=st.integers(1, 70),
    width=st.integers(1, 40),
    experts=st.integers(1, 9),
    data=st.data(),
)
def test_cpu_equals_the_reference(
    isa: str,
    kind: str,
    activation: ActivationType,
    seed: int,
    rows: int,
    hidden: int,
    width: int,
    experts: int,
    data: st.DataObject,
) -> None:
    chosen, shared = data.draw(st.integers(1, experts)), data.draw(st.sampled_from([0, 17]))
    shared_kind = "int8" if kind == "int4" else kind
    layer = make_layer(seed, hidden, width, experts, chosen, shared, (kind, shared_kind))
    x = random_floats(seed + 5000, rows, hidden)
    ops = cpu_ops(isa)
    packed = layer.packed(ops, activation)
    found, routing = apply(ops, x, packed), routing_of(ops, layer.router, x)
    expected = expected_sum(x, layer, routing, activation)
    # the second rounding may take a borderline input the other way: one step of its scale
    step = {"float32": 1e-5, "bfloat16": 1e-2, "int16": 1e-3, "int8": 2e-1}[activation.value]
    np.testing.assert_allclose(found, expected, rtol=0, atol=step * np.abs(expected).max(initial=1) + 1e-5)


@backends
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 9), experts=st.integers(1, 70), data=st.data())
def test_the_best_are_chosen_and_weigh_their_share(
    backend: str, seed: int, rows: int, experts: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(1, experts))
    layer = make_layer(seed, 6, 1, experts, chosen)
    x = random_floats(seed + 5000, rows, 6)
    _, routing = run(backend, x, layer)
    logits = x.astype(np.float64) @ layer.router.gate.T
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = probabilities + layer.router.correction_bias
    assert routing.experts.shape == routing.weights.shape == (rows, chosen)
    for row, members in enumerate(routing.experts):
        assert len(set(members)) == chosen
        left = np.delete(scores[row], members)
        assert left.max(initial=-np.inf) <= scores[row, members].min() + 1e-6
        share = probabilities[row, members] / probabilities[row, members].sum()
        np.testing.assert_allclose(routing.weights[row], share, rtol=1e-4, atol=1e-6)


@backends
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 9), shared=st.sampled_from([0, 7]), data=st.data())
def test_all_backends_add_up_what_they_chose(
    backend: str, seed: int, rows: int, shared: int, data: st.DataObject
) -> None:
    experts = data.draw(st.integers(1, 7))
    layer = make_layer(seed, 12, 9, experts, data.draw(st.integers(1, experts)), shared)
    x = random_floats(seed + 5000, rows, 12)
    found, routing = run(backend, x, layer)
    np.testing.assert_allclose(found, expected_sum(x, layer, routing, FLOAT32), rtol=1e-4, atol=1e-3)


@backends
@pytest.mark.parametrize("shared", [0, 7])
def test_no_rows_are_no_rows(backend: str, shared: int) -> None:
    found, routing = run(backend, random_floats(1, 0, 12), make_layer(2, 12, 9, 4, 2, shared))
    assert found.shape == (0, 12)
    assert routing.experts.shape == routing.weights.shape == (0, 2)


def biased(layer: Layer, bias: list[float], *, gate: Floats | None = None) -> Layer:
    """The layer with another bias, and a router that finds all experts alike unless ``gate`` is given."""
    router = layer.router
    found = np.zeros_like(router.gate) if gate is None else gate
    values = RouterWeights(found, np.array(bias, np.float32), router.experts_per_token)
    return Layer(values, layer.experts, layer.shared)


@backends
def test_of_equals_the_lower_index_is_chosen(backend: str) -> None:
    layer = biased(make_layer(1, 8, 5, 6, 3), [0, 0, 0, 0, 0, 0])
    _, routing = run(backend, random_floats(2, 4, 8), layer)
    np.testing.assert_array_equal(routing.experts, [[0, 1, 2]] * 4)
    np.testing.assert_allclose(routing.weights, np.full((4, 3), 1 / 3), rtol=1e-6)


@backends
def test_the_bias_decides_who_but_not_how_much(backend: str) -> None:
    layer = biased(make_layer(1, 8, 5, 6, 3), [0, 5, 0, 9, -1, 0])
    _, routing = run(backend, random_floats(2, 4, 8), layer)
    np.testing.assert_array_equal(routing.experts, [[0, 1, 3]] * 4)
    np.testing.assert_allclose(routing.weights, np.full((4, 3), 1 / 3), rtol=1e-6)


@backends
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_an_expert_that_nobody_chose_is_not_read(backend: str, rows: int) -> None:
    """All rows go to two of four experts; the others hold NaN."""
    made = make_layer(3, 8, 5, 4, 2)
    poison = MlpWeights(*(Float32Weight(np.full(shape, np.nan, np.float32)) for shape in ((10, 8), (8, 5))))
    experts = [made.experts[0], poison, poison, made.experts[3]]
    layer = biased(Layer(made.router, experts, None), [3, 0, 0, 3])
    x = random_floats(4, rows, 8)
    found, routing = run(backend, x, layer)
    np.testing.assert_array_equal(routing.experts, [[0, 3]] * rows)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected_sum(x, layer, routing, FLOAT32), rtol=1e-4, atol=1e-4)


def test_reference_multiplies_an_expert_once_however_many_rows_chose_it() -> None:
    """The C++ op shows nothing but its result; there, that weights are read once shows in benchmarks only."""
    layer, x = make_layer(21, 12, 9, 24, 2), random_floats(22, 12, 12)
    packed = layer.packed(REFERENCE)
    seen = Counter[int]()

    def mlp(rows: Floats, expert: MlpWeights) -> Floats:
        seen[next(index for index, each in enumerate(layer.experts) if each is expert)] += 1
        return rows

    reference_moe(x, packed, None, mlp)
    rows = Counter(reference_route(x, layer.router).experts.reshape(-1).tolist())
    assert max(rows.values()) > 1
    assert len(rows) < len(layer.experts)
    assert seen == Counter(rows.keys())


def test_paddle_multiplies_an_expert_once_however_many_rows_chose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ernie_kernels.paddle.linear import PackedLinear

    layer, x = make_layer(21, 12, 9, 24, 2), random_floats(22, 12, 12)
    ops = make_ops("paddle")
    packed, given_x = layer.packed(ops), ops.pack_vector(x)
    multiply, seen = PackedLinear.multiply, Counter[int]()

    def counted(self: PackedLinear, rows: Any) -> Any:
        seen[id(self)] += 1
        return multiply(self, rows)

    monkeypatch.setattr(PackedLinear, "multiply", counted)
    apply(ops, given_x, packed)
    (bank,) = packed.banks
    counts = [(seen[id(expert.gate_up)], seen[id(expert.down)]) for expert in bank.experts]
    chosen = set(np.unique(bank.route(given_x).experts).tolist())
    assert counts == [(1, 1) if expert in chosen else (0, 0) for expert in range(24)]


@backends
def test_weights_that_sum_to_nothing_are_nothing(backend: str) -> None:
    """The bias chooses an expert whose probability is 0: nothing is divided by zero."""
    gate = np.zeros((3, 4), np.float32)
    gate[0] = 1000
    layer = biased(make_layer(5, 4, 3, 3, 1, shared=2), [0, 2, 0], gate=gate)
    x, ops = np.ones((2, 4), np.float32), make_ops(backend)
    found = to_host(apply(ops, ops.pack_vector(x), layer.packed(ops)))
    nothing = Routing(np.array([[1]] * 2, np.int32), np.zeros((2, 1), np.float32))
    np.testing.assert_allclose(found, expected_sum(x, layer, nothing, FLOAT32), rtol=1e-4, atol=1e-4)


@backends
def test_huge_logits_choose_one_expert(backend: str) -> None:
    gate = np.zeros((4, 2), np.float32)
    gate[2] = 1e18
    experts = [
        MlpWeights(Float32Weight(random_floats(seed, 6, 2, scale=1e-18)), Float32Weight(random_floats(9, 2, 3)))
        for seed in range(4)
    ]
    layer = biased(Layer(make_layer(6, 2, 3, 4, 2).router, experts, None), [0, 0, 0, 0], gate=gate)
    x, ops = np.array([[1e18, 1e18], [-1e18, -1e18]], np.float32), make_ops(backend)
    found = to_host(apply(ops, ops.pack_vector(x), layer.packed(ops)))
    routing = Routing(np.array([[2, 0], [0, 1]], np.int32), np.array([[1, 0], [0.5, 0.5]], np.float32))
    np.testing.assert_allclose(found, expected_sum(x, layer, routing, FLOAT32), rtol=1e-4, atol=1e-4)


@backends
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(backend: str, wrong: float) -> None:
    """A NaN must not become plausible logits; the rows beside it are as ever."""
    layer = make_layer(7, 8, 5, 4, 2)
    x = random_floats(8, 3, 8)
    clean, _ = run(backend, x, layer)
    x[1, 3] = wrong
    with np.errstate(invalid="ignore"):
        found, _ = run(backend, x, layer)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], clean[[0, 2]], rtol=1e-5, atol=1e-5)


@isas
@pytest.mark.parametrize(("kind", "activation"), WEIGHT_TYPES)
def test_a_row_is_the_same_bits_in_any_batch_and_thread_count(
    isa: str, kind: str, activation: ActivationType
) -> None:
    x = random_floats(9, 23, 70)
    layer = make_layer(10, 70, 33, 8, 3, 20, (kind, kind))
    ops = cpu_ops(isa)
    packed = layer.packed(ops, activation)
    whole = apply(ops, x, packed)
    for count in (1, 2, 5):
        for start in (0, 11, 23 - count):
            part = apply(ops, np.ascontiguousarray(x[start : start + count]), packed)
            np.testing.assert_array_equal(bits(part), bits(whole[start : start + count]))
    for threads in (1, 3):
        other = cpu_ops(isa, threads)
        np.testing.assert_array_equal(bits(apply(other, x, layer.packed(other, activation))), bits(whole))


@isas
def test_many_rows_go_through_the_experts_in_waves(isa: str) -> None:
    """More pairs of row and expert than a wave holds: each row is as if it were alone."""
    layer = make_layer(11, 16, 5, 6, 4, 3)
    x = random_floats(12, 1500, 16)
    ops = cpu_ops(isa)
    packed = layer.packed(ops)
    whole = apply(ops, x, packed)
    for row in (0, 1, 749, 1499):
        np.testing.assert_array_equal(bits(apply(ops, x[row : row + 1], packed)[0]), bits(whole[row]))
    np.testing.assert_allclose(
        whole, expected_sum(x, layer, routing_of(ops, layer.router, x), FLOAT32), rtol=1e-4, atol=1e-3
    )


@backends
@pytest.mark.parametrize(
    ("router", "message"),
    [
        (RouterWeights(random_floats(1, 3, 8), random_floats(2, 2), 2), r"correction_bias has shape \(2,\)"),
        (
            RouterWeights(random_floats(1, 3, 8), random_floats(2, 3), 0),
            "experts_per_token is 0, expected 1 to 3",
        ),
        (
            RouterWeights(random_floats(1, 3, 8), random_floats(2, 3), 4),
            "experts_per_token is 4, expected 1 to 3",
        ),
        (RouterWeights(random_floats(1, 4, 8), random_floats(2, 4), 2), "3"),
        (
            RouterWeights(random_floats(1, 3, 8), np.array([0, np.nan, 0], np.float32), 2),
            "correction_bias of expert 1 is not finite",
        ),
        (
            RouterWeights(np.full((3, 8), np.inf, np.float32), random_floats(2, 3), 2),
            "gate of expert 0 is not finite",
        ),
    ],
)
def test_routers_that_do_not_fit(backend: str, router: RouterWeights, message: str) -> None:
    layer = Layer(router, make_layer(3, 8, 5, 3, 2).experts, None)
    with pytest.raises(ValueError, match=message):
        layer.packed(make_ops(backend))


@pytest.mark.parametrize(
    ("experts", "shared", "message"),
    [
        ([make_mlp(1, 8, 5), make_mlp(2, 7, 5)], None, "expert gate_up inputs is 7, expected 8"),
        ([make_mlp(1, 8, 5), make_mlp(2, 8, 6)], None, "expert width is 6, expected 5"),
        (
            [make_mlp(1, 8, 5), MlpWeights(make_mlp(2, 8, 4).gate_up, make_mlp(2, 8, 5).down)],
            None,
            "expert gate_up outputs is 8, expected 10",
        ),
        ([make_mlp(1, 8, 5)] * 2, make_mlp(1, 9, 5), "shared experts gate_up inputs is 9, expected 8"),
    ],
)
def test_cpu_refuses_experts_that_do_not_fit(
    experts: list[MlpWeights], shared: MlpWeights | None, message: str
) -> None:
    router = RouterWeights(random_floats(1, 2, 8), random_floats(2, 2), 1)
    with pytest.raises(ValueError, match=message):
        Layer(router, experts, shared).packed(cpu_ops("scalar"))


def test_cpu_refuses_inputs_that_do_not_fit() -> None:
    ops = cpu_ops("scalar")
    packed = make_layer(1, 8, 5, 3, 2).packed(ops)
    with pytest.raises(ValueError, match="input columns is 7, expected 8"):
        apply(ops, random_floats(1, 2, 7), packed)


@pytest.mark.parametrize("missing", ["gate_up", "down", "shared_gate_up", "shared_down"])
def test_cpu_refuses_an_mlp_of_which_half_is_missing(missing: str) -> None:
    ops, mlp = cpu_ops("scalar"), make_mlp(1, 8, 5)
    gate_up, down = (ops.pack_linear(weight, FLOAT32) for weight in (mlp.gate_up, mlp.down))
    router = ops.pack_linear(Float32Weight(random_floats(1, 1, 8)), FLOAT32)
    parts: dict[str, Any] = {"gate_up": gate_up, "down": down, "shared_gate_up": gate_up, "shared_down": down}
    parts[missing] = None
    bank = _cpu.ExpertBank(router, random_floats(2, 1), 1, 0, [parts["gate_up"]], [parts["down"]])
    with pytest.raises(ValueError, match="must be gate_up and down, one is None"):
        _cpu.MoeLayer(ops._ops, [bank], parts["shared_gate_up"], parts["shared_down"])
