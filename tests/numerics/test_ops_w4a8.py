"""W4A8 products of CpuOps and ReferenceOps: against the golden model, and an oracle over the same integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels.formats import ActivationType, W4A8Weight, quantize_int4, quantize_w4a8
from ernie_kernels.hadamard import rotate_blocks
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.reference.ops import swiglu
from numerics.ops_cases import ISAS, Floats, bits, cpu_ops, random_floats

REFERENCE = ReferenceOps()
FLOAT32 = ActivationType.FLOAT32

isas = pytest.mark.parametrize("isa", ISAS)


def product(ops: Any, x: Floats, weight: W4A8Weight) -> Floats:
    found: Floats = ops.linear(x, ops.pack_linear(weight, FLOAT32))
    return found


def oracle(x: Floats, weight: W4A8Weight) -> Floats:
    """Rotate by the matrix itself, round, and multiply what is left in float64."""
    rows, inputs = x.shape
    if weight.rotation:
        matrix = np.ones((1, 1))
        while len(matrix) < weight.rotation:
            matrix = np.kron([[1, 1], [1, -1]], matrix)
        x = (x.reshape(-1, weight.rotation) @ matrix).reshape(rows, inputs)
    codes = np.rint(x / (weight.input_scale or 1)).clip(-127, 127)
    nibbles = np.stack([weight.weight.packed & 15, weight.weight.packed >> 4], -1).reshape(-1, inputs)
    weights = nibbles.astype(np.int64) - 16 * (nibbles > 7)
    product: Floats = (codes @ weights.T * weight.input_scale * weight.weight.scales).astype(np.float32)
    return product


@isas
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 9),
    inputs=st.sampled_from([2, 6, 8, 128, 256, 896, 1536]),
    outputs=st.sampled_from([1, 15, 16, 33, 128]),
    absmax=st.sampled_from([0.0, 1e-30, 0.5, 4.0, 1e4]),
    rotation=st.sampled_from([0, 2, 16, 128, 512]),
    seed=st.integers(0, 1000),
)
def test_products_equal_the_golden_model(
    isa: str, rows: int, inputs: int, outputs: int, absmax: float, rotation: int, seed: int
) -> None:
    rotation = rotation if rotation and inputs % rotation == 0 else 0
    x = random_floats(seed, rows, inputs)
    x[1::3] *= 1e-20
    x[2::3] = 0
    weight = quantize_w4a8(random_floats(seed + 1, outputs, inputs), absmax, rotation)
    expected = REFERENCE.linear(x, REFERENCE.pack_linear(weight, FLOAT32))
    found = product(cpu_ops(isa), x, weight)
    assert found.shape == (rows, outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


@isas
def test_products_are_those_of_the_same_integers(isa: str) -> None:
    """Whole numbers: no rounding on the way to the codes, so the oracle has the very same."""
    x = np.random.default_rng(3).integers(-300, 300, (7, 1024)).astype(np.float32)
    values = random_floats(4, 96, 1024)
    for rotation, scale in ((0, 2.0), (2, 2.0), (16, 8.0), (128, 32.0), (1024, 64.0)):
        weight = W4A8Weight(quantize_int4(values), scale, rotation)
        found = product(cpu_ops(isa), x, weight)
        np.testing.assert_allclose(found, oracle(x, weight), rtol=1e-5, atol=1e-6 * np.abs(found).max())


@isas
def test_the_largest_codes_meet(isa: str) -> None:
    """Inputs whose rotation is as large as it gets, at the absmax: sums of 127 * 7 for each input."""
    width = 8192
    x = np.full((2, width), 3.0, np.float32)
    x[1] = -x[1]
    folded = np.zeros((3, width), np.float32)
    folded[:, ::128] = 7.0  # what meets the only number of a block that is not 0
    weight = W4A8Weight(quantize_int4(folded), 3.0 * 128 / 127, 128)
    found = product(cpu_ops(isa), x, weight)
    np.testing.assert_allclose(found, [[3.0 * 128 * 7 * width / 128] * 3, [-3.0 * 7 * width] * 3], rtol=1e-6)
    plain = W4A8Weight(quantize_int4(np.full((3, width), 7.0, np.float32)), 3.0 / 127, 0)
    np.testing.assert_allclose(
        product(cpu_ops(isa), x, plain), [[3.0 * 7 * width] * 3, [-3.0 * 7 * width] * 3], rtol=1e-6
    )


@isas
def test_large_inputs_are_cut_and_numbers_that_are_not_finite_spoil_their_row(isa: str) -> None:
    x = random_floats(5, 6, 256)
    x[1, 3] = 1e30
    x[2, 200], x[3, 0], x[4, 7] = np.nan, np.inf, -np.inf
    for rotation in (0, 128):
        weight = quantize_w4a8(random_floats(6, 40, 256), 3.0, rotation)
        found = product(cpu_ops(isa), x, weight)
        expected = REFERENCE.linear(x, REFERENCE.pack_linear(weight, FLOAT32))
        assert np.isnan(found[2:5]).all()
        np.testing.assert_allclose(found[[0, 1, 5]], expected[[0, 1, 5]], rtol=1e-6)
        assert np.isfinite(expected[[0, 1, 5]]).all()


@isas
def test_a_row_is_the_same_bits_in_any_batch(isa: str) -> None:
    ops, x = cpu_ops(isa), random_floats(1, 23, 384)
    weight = ops.pack_linear(quantize_w4a8(random_floats(2, 211, 384), 4.0, 128), FLOAT32)
    whole = ops.linear(x, weight)
    for count in (1, 2, 5, 7):
        for start in (0, 11, 23 - count):
            part = ops.linear(np.ascontiguousarray(x[start : start + count]), weight)
            np.testing.assert_array_equal(bits(part), bits(whole[start : start + count]))


@isas
def test_the_rotation_of_weights_and_inputs_cancels(isa: str) -> None:
    """A mlp whose inner inputs have outliers is nearer to float32 with the rotation than without."""
    x = random_floats(7, 16, 64)
    gate_up, down = random_floats(8, 512, 64, scale=0.2), random_floats(9, 48, 256, scale=0.2)
    gate_up[40] *= 12
    inner = swiglu(x @ gate_up.T)
    exact, errors = inner @ down.T, []
    ops: Any = cpu_ops(isa)
    first = quantize_w4a8(gate_up, float(np.abs(x).max()))
    for rotation in (0, 128):
        seen = rotate_blocks(inner, rotation) if rotation else inner
        second = quantize_w4a8(down, float(np.abs(seen).max()), rotation)
        packed = [ops.pack_linear(weight, FLOAT32) for weight in (first, second)]
        errors.append(np.abs(ops.mlp(x, *packed) - exact).mean())
    assert errors[1] < errors[0]


@isas
@pytest.mark.parametrize(
    ("weight", "complaint"),
    [
        (lambda codes: W4A8Weight(codes, 1.0, 96), "96.* must be a power of two"),
        (lambda codes: W4A8Weight(codes, 1.0, 128), "128.* divide"),
    ],
)
def test_rotations_that_do_not_fit_are_refused(isa: str, weight: Any, complaint: str) -> None:
    ops: Any = cpu_ops(isa)
    codes = quantize_int4(random_floats(0, 4, 192))
    with pytest.raises(ValueError, match=complaint):
        ops.linear(random_floats(1, 2, 192), ops.pack_linear(weight(codes), FLOAT32))


@pytest.mark.parametrize("absmax", [-1.0, float("inf"), float("nan")])
def test_an_absmax_is_finite_and_not_negative(absmax: float) -> None:
    with pytest.raises(ValueError, match="must be finite and not negative"):
        quantize_w4a8(random_floats(0, 4, 8), absmax)
