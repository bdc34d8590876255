"""What ops do with rows of media: embeddings put in, experts of their own, positions on several axes.

Every backend against the definition, over odd shapes; on ``cpu`` a row has the same bits in any batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_kernels.api import Batch, CacheSpec, ExpertBank, MlpWeights, RotarySpec
from ernie_kernels.formats import ActivationType, Float32Weight
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.routing import RouterWeights
from numerics.backends import BACKENDS, INTEGER_BACKENDS, make_ops, to_host
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

REFERENCE = ReferenceOps()
FLOAT32 = ActivationType.FLOAT32
HIDDEN = 24

backends = pytest.mark.parametrize("backend", BACKENDS)
isas = pytest.mark.parametrize("isa", ISAS)


def mlp(seed: int, width: int, kind: str) -> MlpWeights:
    gate_up, down = random_floats(seed, 2 * width, HIDDEN), random_floats(seed + 1, HIDDEN, width)
    return MlpWeights(make_weight(gate_up, kind), make_weight(down, kind))


def bank(seed: int, width: int, experts: int, chosen: int, kind: str, local: range | None = None) -> ExpertBank:
    router = RouterWeights(
        random_floats(seed, experts, HIDDEN), random_floats(seed + 1, experts, scale=0.1), chosen
    )
    numbers = range(experts) if local is None else local
    return ExpertBank(router, [mlp(seed + 10 * number, width, kind) for number in numbers], local)


def media_batch(count: int, vision: NDArray[np.int32] | None) -> Batch:
    return replace(plain_batch(count), vision_rows=vision)


def some_rows(data: st.DataObject, count: int) -> NDArray[np.int32]:
    """Any rows of ``count``, often none or all."""
    chosen = data.draw(st.sets(st.integers(0, count - 1)) | st.sampled_from([set[int](), set(range(count))]))
    return np.array(sorted(chosen), np.int32)


def apply(ops: Any, x: Floats, layer: Any, vision: NDArray[np.int32] | None) -> Floats:
    batch = ops.upload(media_batch(len(x), vision))
    return np.array(to_host(ops.moe(ops.pack_vector(x), layer, batch)), np.float32)


CASES = [
    (backend, kind, activation)
    for backend in BACKENDS
    for kind, activation in WEIGHT_TYPES
    if (backend, kind) != ("paddle", "int4 in groups")
    and (activation is FLOAT32 or (backend in INTEGER_BACKENDS and activation is not ActivationType.BFLOAT16))
]


@pytest.mark.parametrize(("backend", "kind", "activation"), CASES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 9), data=st.data())
def test_each_row_sees_the_experts_of_its_bank(
    backend: str, kind: str, activation: ActivationType, seed: int, count: int, data: st.DataObject
) -> None:
    """Row by row as if each bank were a layer of its own, without and with shared experts."""
    vision = some_rows(data, count)
    experts = data.draw(st.integers(1, 5))
    chosen, shared = data.draw(st.integers(1, experts)), data.draw(st.sampled_from([None, 7]))
    ops, x = make_ops(backend), random_floats(seed, count, HIDDEN)
    banks = [
        bank(seed + 100, data.draw(st.integers(1, 19)), experts, chosen, kind),
        bank(seed + 900, data.draw(st.integers(1, 19)), experts, chosen, kind),
    ]
    of_all = None if shared is None else mlp(seed + 5000, shared, kind)
    found = apply(ops, x, ops.pack_moe(banks, of_all, activation), vision)
    text, media = (apply(ops, x, ops.pack_moe([each], of_all, activation), None) for each in banks)
    is_vision = np.zeros((count, 1), np.bool_)
    is_vision[vision] = True
    np.testing.assert_allclose(found, np.where(is_vision, media, text), rtol=1e-4, atol=1e-4)


@backends
@pytest.mark.parametrize("kind", ["float32", "int4"])
def test_every_backend_equals_the_reference(backend: str, kind: str) -> None:
    banks, shared = [bank(1, 11, 6, 2, kind), bank(2, 5, 6, 2, kind)], mlp(3, 9, "int8")
    x, vision = random_floats(4, 13, HIDDEN), np.array([0, 3, 4, 5, 12], np.int32)
    found, expected = (
        apply(ops, x, ops.pack_moe(banks, shared, FLOAT32), vision) for ops in (make_ops(backend), REFERENCE)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@backends
def test_one_bank_sees_all_rows(backend: str) -> None:
    ops, x = make_ops(backend), random_floats(1, 5, HIDDEN)
    layer = ops.pack_moe([bank(1, 8, 4, 2, "float32")], None, FLOAT32)
    np.testing.assert_array_equal(apply(ops, x, layer, np.array([1, 2], np.int32)), apply(ops, x, layer, None))


@backends
def test_parts_of_both_banks_add_up_to_the_whole(backend: str) -> None:
    """As ranks have them."""
    ops, x, vision = make_ops(backend), random_floats(1, 9, HIDDEN), np.array([2, 3, 7], np.int32)

    def part(local: range) -> Floats:
        banks = [bank(seed, width, 4, 2, "float32", local) for seed, width in ((1, 8), (2, 3))]
        return apply(ops, x, ops.pack_moe(banks, None, FLOAT32), vision)

    np.testing.assert_allclose(part(range(2)) + part(range(2, 4)), part(range(4)), rtol=1e-4, atol=1e-4)


@isas
@pytest.mark.parametrize(("kind", "activation"), WEIGHT_TYPES)
def test_a_row_is_the_same_bits_in_any_batch(isa: str, kind: str, activation: ActivationType) -> None:
    ops, x = cpu_ops(isa), random_floats(9, 23, HIDDEN)
    layer = ops.pack_moe([bank(1, 33, 8, 3, kind), bank(2, 17, 8, 3, kind)], mlp(3, 20, kind), activation)
    vision = np.array([0, 1, 5, 6, 7, 8, 20, 22], np.int32)
    whole = apply(ops, x, layer, vision)
    for start, count in ((0, 1), (0, 3), (5, 4), (4, 9), (9, 11), (22, 1)):
        inside = vision[(vision >= start) & (vision < start + count)] - start
        part = apply(ops, np.ascontiguousarray(x[start : start + count]), layer, inside.astype(np.int32))
        np.testing.assert_array_equal(bits(part), bits(whole[start : start + count]))
    other = cpu_ops(isa, 3)
    layer = other.pack_moe([bank(1, 33, 8, 3, kind), bank(2, 17, 8, 3, kind)], mlp(3, 20, kind), activation)
    np.testing.assert_array_equal(bits(apply(other, x, layer, vision)), bits(whole))


@backends
@pytest.mark.parametrize("count", [0, 3])
def test_a_layer_has_one_bank_or_two(backend: str, count: int) -> None:
    ops = make_ops(backend)
    banks = [bank(seed, 4, 2, 1, "float32") for seed in range(count)]
    with pytest.raises(ValueError, match="bank"):
        apply(ops, random_floats(1, 2, HIDDEN), ops.pack_moe(banks, None, FLOAT32), None)


def test_cpu_refuses_banks_of_other_inputs() -> None:
    ops, other = cpu_ops(ISAS[0]), RouterWeights(random_floats(1, 2, 8), random_floats(2, 2), 1)
    parts = [Float32Weight(random_floats(3, *size)) for size in ((6, 8), (8, 3))]
    wrong = ExpertBank(other, [MlpWeights(*parts)] * 2)
    with pytest.raises(ValueError, match="router inputs is 8, expected 24"):
        ops.pack_moe([bank(1, 4, 2, 1, "float32"), wrong], None, FLOAT32)


@backends
@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 9), data=st.data())
def test_rows_of_media_are_put_in(backend: str, count: int, data: st.DataObject) -> None:
    rows = some_rows(data, count)
    ops, x, media = make_ops(backend), random_floats(1, count, 10), random_floats(2, len(rows), 10)
    batch = ops.upload(replace(plain_batch(count), media_rows=rows))
    given_x = ops.pack_vector(x)
    found = to_host(ops.put_rows(given_x, ops.pack_vector(media), batch))
    expected = x.copy()
    expected[rows] = media
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(to_host(given_x), x)


@backends
def test_as_many_embeddings_as_rows(backend: str) -> None:
    ops, x = make_ops(backend), random_floats(1, 4, 10)
    batch = ops.upload(replace(plain_batch(4), media_rows=np.array([1, 2], np.int32)))
    with pytest.raises(ValueError, match=r"media.*(2, expected 3|3, expected 2)"):
        ops.put_rows(ops.pack_vector(x), ops.pack_vector(random_floats(2, 3, 10)), batch)


def turned(x: Floats, positions: NDArray[np.int32], spec: RotarySpec) -> Floats:
    """The heads ``[T, heads, head_dim]``, pair by pair and in float64: RoFormer on the pair's own axis."""
    result, half = x.astype(np.float64), spec.head_dim // 2
    for pair in range(half):
        angle = positions[spec.axes[pair]] * spec.theta ** (-2 * pair / spec.head_dim)
        first, second = (2 * pair, 2 * pair + 1) if spec.interleaved else (pair, pair + half)
        a, b = x[..., first].astype(np.float64), x[..., second].astype(np.float64)
        cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
        result[..., first], result[..., second] = a * cosine - b * sine, b * cosine + a * sine
    return result.astype(np.float32)


@backends
@settings(max_examples=12, deadline=None)
@given(
    half=st.integers(1, 9),
    count=st.integers(1, 7),
    interleaved=st.booleans(),
    num_axes=st.integers(1, 3),
    data=st.data(),
)
def test_pairs_turn_by_their_own_axis(
    backend: str, half: int, count: int, interleaved: bool, num_axes: int, data: st.DataObject
) -> None:
    """Seen through attention: rotated beforehand and by positions that are all 0, the result is the same."""
    num_axes = min(num_axes, half)
    axes = data.draw(st.lists(st.integers(0, num_axes - 1), min_size=half, max_size=half))
    axes[0] = num_axes - 1
    spec = RotarySpec(2 * half, 64, 100.0, interleaved, axes=tuple(axes))
    positions = np.random.default_rng(count).integers(0, 64, (num_axes, count)).astype(np.int32)
    qkv = random_floats(half, count, 3 * spec.head_dim)
    ops = make_ops(backend)

    def attend(values: Floats, places: NDArray[np.int32]) -> Floats:
        cache = ops.allocate_cache(CacheSpec(1, 16, 1, spec.head_dim, "float32"))
        batch = ops.upload(replace(plain_batch(count), positions=places))
        return np.array(to_host(ops.attention(ops.pack_vector(values), ops.pack_rotary(spec), cache, batch)))

    heads = qkv.reshape(count, 3, spec.head_dim)
    before = np.concatenate([turned(heads[:, :2], positions, spec), heads[:, 2:]], axis=1).reshape(qkv.shape)
    found, expected = attend(qkv, positions), attend(before, np.zeros_like(positions))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@backends
def test_one_position_is_that_on_every_axis(backend: str) -> None:
    ops, spec = make_ops(backend), RotarySpec(8, 16, 100.0, axes=(1, 2, 1, 0))
    qkv, places = random_floats(1, 5, 24), np.array([3, 4, 5, 9, 2], np.int32)
    results = []
    for positions in (places, np.tile(places, (3, 1))):
        cache = ops.allocate_cache(CacheSpec(1, 16, 1, 8, "float32"))
        batch = ops.upload(replace(plain_batch(5), positions=positions))
        results.append(to_host(ops.attention(ops.pack_vector(qkv), ops.pack_rotary(spec), cache, batch)))
    np.testing.assert_array_equal(results[0], results[1])


@backends
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 1, 2, -1)])
def test_axes_that_do_not_fit_are_refused(backend: str, axes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rotary axes"):
        make_ops(backend).pack_rotary(RotarySpec(8, 16, 100.0, axes=axes))


@backends
@pytest.mark.parametrize("num_axes", [2, 4])
def test_positions_of_another_number_of_axes_are_refused(backend: str, num_axes: int) -> None:
    ops, spec = make_ops(backend), RotarySpec(8, 16, 100.0, axes=(0, 1, 2, 2))
    cache = ops.allocate_cache(CacheSpec(1, 16, 1, 8, "float32"))
    batch = ops.upload(replace(plain_batch(5), positions=np.zeros((num_axes, 5), np.int32)))
    with pytest.raises(ValueError, match=f"positions .*{num_axes}.*3"):
        ops.attention(ops.pack_vector(random_floats(1, 5, 24)), ops.pack_rotary(spec), cache, batch)
