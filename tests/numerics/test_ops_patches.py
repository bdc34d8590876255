"""The ops of vision towers: the reference against its formulas, every backend against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels.api import Gelu, Ops
from ernie_kernels.formats import ActivationType, round_to_bfloat16
from ernie_kernels.patches import PatchCacheSpec, PatchGrid, merged_blocks, merged_frames, position_samples
from ernie_kernels.reference import ReferenceOps
from numerics.backends import BACKENDS, CPU_BACKENDS, make_ops, to_host
from numerics.ops_cases import WEIGHT_TYPES, Floats, bits, make_weight, random_floats

REFERENCE = ReferenceOps()
OTHERS = [name for name in BACKENDS if name != "reference"]
backends = pytest.mark.parametrize("backend", OTHERS)
GELUS: tuple[Gelu, ...] = ("erf", "tanh", "quick")


@backends
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 7), width=st.integers(1, 200), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_layer_norm(backend: str, rows: int, width: int, scale: float) -> None:
    ops, x, delta = make_ops(backend), random_floats(1, rows, width, scale=scale), random_floats(2, rows, width)
    weight, bias = random_floats(3, width), random_floats(4, width)
    factors, shift = ops.pack_vector(weight), ops.pack_vector(bias)
    normed = to_host(ops.layer_norm(ops.upload_rows(x), factors, shift, 1e-6))
    np.testing.assert_allclose(normed, REFERENCE.layer_norm(x, weight, bias, 1e-6), rtol=2e-4, atol=2e-5)
    total, both = ops.add_layer_norm(ops.upload_rows(x), ops.upload_rows(delta), factors, shift, 1e-6)
    np.testing.assert_array_equal(to_host(total), x + delta)
    np.testing.assert_allclose(
        to_host(both), to_host(ops.layer_norm(total, factors, shift, 1e-6)), rtol=0, atol=0
    )


def test_the_reference_norm_is_the_formula_in_float64() -> None:
    x, weight, bias = random_floats(1, 5, 33).astype(np.float64), random_floats(2, 33), random_floats(3, 33)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6) * weight + bias
    np.testing.assert_allclose(
        REFERENCE.layer_norm(x.astype(np.float32), weight, bias, 1e-6), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("backend", "kind", "activation"),
    [
        (backend, *weight)
        for backend in BACKENDS
        for weight in WEIGHT_TYPES
        if (backend, weight[0]) != ("paddle", "int4 in groups")
    ],
)
def test_linear_adds_its_bias(backend: str, kind: str, activation: ActivationType) -> None:
    if backend == "paddle" and activation is not ActivationType.BFLOAT16:
        activation = ActivationType.FLOAT32
    ops, x, bias = make_ops(backend), random_floats(1, 5, 37), random_floats(2, 70)
    weight = ops.pack_linear(make_weight(random_floats(3, 70, 37), kind), activation)
    plain = to_host(ops.linear(ops.upload_rows(x), weight))
    np.testing.assert_array_equal(
        to_host(ops.linear(ops.upload_rows(x), weight, ops.pack_vector(bias))), plain + bias
    )


@backends
@pytest.mark.parametrize("gelu", GELUS)
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_gelu_mlp(backend: str, gelu: Gelu, kind: str) -> None:
    def compute(ops: Ops) -> Floats:
        up, down = (
            ops.pack_linear(make_weight(random_floats(seed, *shape), kind), ActivationType.FLOAT32)
            for seed, shape in ((1, (50, 19)), (2, (21, 50)))
        )
        biases = [ops.pack_vector(random_floats(seed, width)) for seed, width in ((3, 50), (4, 21))]
        x = ops.upload_rows(random_floats(5, 6, 19))
        return to_host(ops.gelu_mlp(x, up, biases[0], down, biases[1], gelu))

    np.testing.assert_allclose(compute(make_ops(backend)), compute(REFERENCE), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gelu", GELUS)
def test_gelus_are_their_formulas_in_float64(backend: str, gelu: Gelu) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e30, -100, -0.0, 0, 100, 1e30]]).astype(np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = {
            "erf": lambda: wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))),
            "tanh": lambda: wide * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))),
            "quick": lambda: wide / (1 + np.exp(-1.702 * wide)),
        }[gelu]()
    ops = make_ops(backend)
    identity = ops.pack_linear(make_weight(np.eye(1, dtype=np.float32), "float32"), ActivationType.FLOAT32)
    nothing = ops.pack_vector(np.zeros(1, np.float32))
    found = ops.gelu_mlp(ops.upload_rows(x[:, None]), identity, nothing, identity, nothing, gelu)
    np.testing.assert_allclose(to_host(found)[:, 0], expected, rtol=1e-5, atol=2e-6)


def formula(qkv: Floats, grid: PatchGrid, heads: int, theta: float) -> Floats:
    """Attention of each patch in float64, by complex numbers: pair (i, i + D / 2) turns by row or column."""
    frames = len(qkv) // grid.size
    parts = qkv.astype(np.float64).reshape(frames, grid.size, 3, heads, -1)
    half = parts.shape[-1] // 2
    frequencies = theta ** (-np.arange(0, half, 2) / half)
    angles = np.concatenate([np.outer(axis, frequencies) for axis in grid.coordinates().T], axis=1)
    turned = (parts[..., :half] + 1j * parts[..., half:]) * np.exp(1j * angles)[None, :, None, None]
    scores = np.einsum("fqhd,fkhd->fhqk", turned[:, :, 0], turned[:, :, 1].conj()).real / math.sqrt(2 * half)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = np.einsum("fhqk,fkhd->fqhd", weights, parts[:, :, 2]).reshape(len(qkv), -1)
    return np.asarray(attended, np.float32)


def attend(ops: Any, qkv: Floats, spec: PatchCacheSpec, grid: PatchGrid, cut: int) -> Floats:
    """Append and attend in pieces of ``cut`` rows."""
    rotary, cache = ops.pack_axial_rotary(grid, spec.head_dim, 10000.0), ops.allocate_patches(spec)
    for begin in range(0, spec.rows, cut):
        ops.append_patches(ops.upload_rows(qkv[begin : begin + cut]), rotary, cache, begin)
    ends = [(begin, min(begin + cut, spec.rows)) for begin in range(0, spec.rows, cut)]
    return np.concatenate([to_host(ops.attend_patches(cache, *piece)) for piece in ends])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=8, deadline=None)
@given(
    shape=st.sampled_from([(1, 2), (2, 3), (3, 8), (6, 11), (13, 11)]),
    block=st.sampled_from([1, 2]),
    frames=st.integers(1, 3),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([4, 16, 20, 72, 80]),
    cut=st.sampled_from([1000, 37]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_patches_attend_within_their_frame(
    backend: str,
    shape: tuple[int, int],
    block: int,
    frames: int,
    heads: int,
    head_dim: int,
    cut: int,
    dtype: str,
) -> None:
    grid = PatchGrid(block * shape[0], block * shape[1], block)
    spec = PatchCacheSpec(frames * grid.size, grid.size, heads, head_dim, dtype)
    qkv = random_floats(shape[0], spec.rows, 3 * heads * head_dim)
    found = attend(make_ops(backend), qkv, spec, grid, cut)
    np.testing.assert_allclose(
        found, formula(qkv, grid, heads, 10000.0), atol=2e-5 if dtype == "float32" else 4e-2
    )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuts_change_no_bit(backend: str, dtype: str) -> None:
    grid = PatchGrid(14, 22, 2)
    spec = PatchCacheSpec(2 * grid.size, grid.size, 2, 72, dtype)
    qkv = random_floats(1, spec.rows, 3 * 2 * 72)
    whole = attend(make_ops(backend), qkv, spec, grid, spec.rows)
    for cut in (1, 31, 300):
        np.testing.assert_array_equal(bits(attend(make_ops(backend), qkv, spec, grid, cut)), bits(whole))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_patch_cache_is_used_again_by_the_next_layer(backend: str) -> None:
    ops, grid = make_ops(backend), PatchGrid(3, 5)
    rotary, cache = (
        ops.pack_axial_rotary(grid, 8, 10000.0),
        ops.allocate_patches(PatchCacheSpec(15, 15, 1, 8, "float32")),
    )
    for seed in (1, 2):
        qkv = random_floats(seed, 15, 24)
        ops.append_patches(ops.upload_rows(qkv), rotary, cache, 0)
        np.testing.assert_allclose(
            to_host(ops.attend_patches(cache, 0, 15)), formula(qkv, grid, 1, 10000.0), atol=2e-5
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (27, 27), (30, 5), (54, 81)])
def test_positions_are_interpolated_as_an_image_is_resized(backend: str, shape: tuple[int, int]) -> None:
    side, width, grid = 27, 3, PatchGrid(*shape)
    table, x = random_floats(1, side * side * width), random_floats(2, 2 * grid.size, width)
    ops = make_ops(backend)
    found = to_host(ops.add_positions(ops.upload_rows(x), ops.pack_vector(table), grid, 0))
    expected = [interpolated(table.reshape(side, side, width), shape, place) for place in np.ndindex(shape)]
    np.testing.assert_allclose(found - x, np.tile(expected, (2, 1)), atol=5e-5)
    if grid.size > 1:
        later = to_host(ops.add_positions(ops.upload_rows(x[1:3]), ops.pack_vector(table), grid, 1))
        np.testing.assert_allclose(later, found[1:3], atol=1e-6)


def interpolated(table: Floats, shape: tuple[int, int], place: tuple[int, ...]) -> Any:
    """Bilinear, without aligned corners; the edge repeats."""
    row, column = ((at + 0.5) * 27 / count - 0.5 for at, count in zip(place, shape, strict=True))
    corners = 0.0
    for y in (math.floor(row), math.floor(row) + 1):
        for x in (math.floor(column), math.floor(column) + 1):
            weight = (1 - abs(row - y)) * (1 - abs(column - x))
            corners = corners + weight * table[min(max(y, 0), 26), min(max(x, 0), 26)].astype(np.float64)
    return corners


def test_a_grid_as_large_as_the_table_takes_it_as_it_is() -> None:
    indices, weights = position_samples(PatchGrid(5, 5), 5)
    np.testing.assert_array_equal(indices[:, 0], np.arange(25))
    np.testing.assert_array_equal(weights, np.tile([1, 0, 0, 0], (25, 1)))


def test_merging_puts_patches_of_a_block_and_frames_of_a_pair_side_by_side() -> None:
    raster = merged_blocks(PatchGrid(4, 6), 2)
    np.testing.assert_array_equal(raster[:3], [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]])
    np.testing.assert_array_equal(merged_blocks(PatchGrid(4, 6, 2), 2), np.arange(24).reshape(6, 4))
    np.testing.assert_array_equal(merged_frames(4, 2), [[0, 2], [1, 3], [4, 6], [5, 7]])
    np.testing.assert_array_equal(merged_frames(1, 3), [[0, 0], [1, 1], [2, 2]])
    with pytest.raises(ValueError, match="3 frames"):
        merged_frames(3, 2)
    with pytest.raises(ValueError, match="5 x 6 patches"):
        merged_blocks(PatchGrid(5, 6), 2)
    with pytest.raises(ValueError, match="blocks of 3"):
        merged_blocks(PatchGrid(6, 6, 3), 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_cut_joined_and_merged(backend: str) -> None:
    ops, x = make_ops(backend), random_floats(1, 7, 3)
    device = ops.upload_rows(x)
    parts = [ops.rows(device, 4, 7), ops.rows(device, 0, 1)]
    np.testing.assert_array_equal(to_host(ops.concatenate(parts)), x[[4, 5, 6, 0]])
    indices = np.array([[0, 2], [6, 6]], np.int32)
    np.testing.assert_array_equal(to_host(ops.merge_rows(device, indices)), x[indices].reshape(2, 6))
    with pytest.raises(ValueError, match="indices"):
        ops.merge_rows(device, indices + 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_misfits_are_refused(backend: str) -> None:
    ops, grid = make_ops(backend), PatchGrid(2, 3)
    rotary, cache = (
        ops.pack_axial_rotary(grid, 8, 10000.0),
        ops.allocate_patches(PatchCacheSpec(6, 6, 1, 8, "float32")),
    )
    with pytest.raises(ValueError, match=r"begin|rows"):
        ops.append_patches(ops.upload_rows(random_floats(1, 6, 24)), rotary, cache, 1)
    with pytest.raises(ValueError, match=r"begin|rows"):
        ops.attend_patches(cache, 3, 7)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ((7, 6, 1, 8, "float32"), "whole"),
        ((6, 6, 1, 6, "float32"), "multiple of 4"),
        ((6, 6, 1, 8, "int8"), "dtype"),
    ],
)
def test_impossible_caches_are_refused(fields: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PatchCacheSpec(*fields)


def test_bfloat16_attention_rounds_what_it_multiplies() -> None:
    grid, spec = PatchGrid(3, 4), PatchCacheSpec(12, 12, 1, 8, "bfloat16")
    qkv = random_floats(1, 12, 24)
    found = attend(REFERENCE, qkv, spec, grid, 12)
    values = round_to_bfloat16(qkv[:, 16:])
    assert found.min() >= values.min() * 1.01
    assert found.max() <= values.max() * 1.01
    assert np.abs(found - formula(qkv, grid, 1, 10000.0)).max() > 1e-4
