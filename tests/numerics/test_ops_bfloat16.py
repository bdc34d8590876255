"""Products of bfloat16 weights with bfloat16 activations: their definition in exact arithmetic, bit for bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_kernels.formats import ActivationType, Bfloat16Weight, bfloat16_to_float32, round_to_bfloat16
from numerics.ops_cases import ISAS, Floats, bits, cpu_ops, make_weight, random_floats

BFLOAT16 = ActivationType.BFLOAT16
AMX = "avx512-amx"
PAIRED = [isa for isa in ISAS if isa != AMX]
"""Those that add as vdpbf16ps does, pair by pair."""
SMALLEST = Fraction(1, 1 << 126)
EXTREMES = (
    *(0x0000, 0x8000),  # zeros
    *(0x0001, 0x007F, 0x807F),  # denormals
    *(0x0080, 0x8080, 0x0081, 0x1F80, 0x2000, 0xA001),  # whose products are near the smallest normal number
    *(0x3F7F, 0x3F80, 0xBF80, 0x3F81, 0x4B80, 0x4C00),
    *(0x5F80, 0x6000, 0xDF80, 0x7F7F, 0xFF7F),  # whose products are near the largest
    *(0x7F80, 0xFF80, 0x7FC0),  # infinities, NaN
)
PATTERNS = st.one_of(st.sampled_from(EXTREMES), st.integers(0, 0xFFFF))


def to_float32(value: Fraction) -> float:
    """Round half to even to 24 bits; beyond float32 is infinity, below its normal numbers zero."""
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= abs(value) < Fraction(2) ** exponent
    step = Fraction(2) ** (exponent - 23)
    rounded = round(value / step) * step
    if abs(rounded) >= 1 << 128:
        return math.copysign(math.inf, rounded)
    return float(rounded) if abs(rounded) >= SMALLEST else 0.0


def multiply_add(weight: float, value: float, total: float) -> float:
    weight, value, total = (0.0 if abs(each) < SMALLEST else each for each in (weight, value, total))
    if not all(map(math.isfinite, (weight, value, total))):
        return weight * value + total
    return to_float32(Fraction(weight) * Fraction(value) + Fraction(total))


def exact_product(x: Floats, weight: Floats) -> Floats:
    """What vdpbf16ps makes of bfloat16 values, by Intel's manual: of each pair the odd place first."""
    result = np.zeros((len(x), len(weight)), np.float32)
    for row, output in np.ndindex(result.shape):
        total = 0.0
        for pair in range(0, x.shape[1], 2):
            for k in reversed(range(pair, min(pair + 2, x.shape[1]))):
                total = multiply_add(float(weight[output, k]), float(x[row, k]), total)
        result[row, output] = total
    return result


def tile_product(x: Floats, weight: Floats) -> Floats:
    """What TDPBF16PS makes of them: of every 32 inputs, even and odd places in chains of their own."""
    result = np.zeros((len(x), len(weight)), np.float32)
    for row, output in np.ndindex(result.shape):
        total = 0.0
        for start in range(0, x.shape[1], 32):
            chains = [0.0, 0.0]
            for k in range(start, min(start + 32, x.shape[1])):
                chains[k % 2] = multiply_add(float(weight[output, k]), float(x[row, k]), chains[k % 2])
            total = multiply_add(1.0, multiply_add(1.0, chains[0], chains[1]), total)
        result[row, output] = total
    return result


def same_or_nan(x: Floats) -> NDArray[np.uint32]:
    """The bits, every NaN alike."""
    return bits(np.where(np.isnan(x), np.float32(np.nan), x))


def matrix(draw: st.DrawFn, rows: int, columns: int) -> NDArray[np.uint16]:
    patterns = draw(st.lists(PATTERNS, min_size=rows * columns, max_size=rows * columns))
    return np.array(patterns, np.uint16).reshape(rows, columns)


@st.composite
def products(draw: st.DrawFn) -> tuple[Floats, Bfloat16Weight]:
    rows, inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    x = bfloat16_to_float32(matrix(draw, rows, inputs))
    if draw(st.booleans()):  # to be rounded, at halves and beside them
        lower = draw(
            st.lists(st.sampled_from((0, 1, 0x7FFF, 0x8000, 0x8001)), min_size=x.size, max_size=x.size)
        )
        x = (x.view(np.uint32) | np.array(lower, np.uint32).reshape(x.shape)).view(np.float32)
    return x, Bfloat16Weight(matrix(draw, outputs, inputs))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=100, deadline=None)
@given(products())
def test_products_are_exact_at_the_extremes(isa: str, case: tuple[Floats, Bfloat16Weight]) -> None:
    x, weight = case
    ops = cpu_ops(isa)
    define = tile_product if isa == AMX else exact_product
    expected = define(round_to_bfloat16(x), bfloat16_to_float32(weight.bits))
    np.testing.assert_array_equal(ops.linear(x, ops.pack_linear(weight, BFLOAT16)), expected)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (7, 333, 211), (3, 1024, 65), (50, 2, 17)])
@pytest.mark.parametrize("scale", [1e-19, 1.0, 1e19])
def test_pairs_make_the_same_bits_everywhere(rows: int, inputs: int, outputs: int, scale: float) -> None:
    """Sums in the middle of float32's range, and around both ends of it."""
    x = random_floats(1, rows, inputs, scale=scale)
    weight = make_weight(random_floats(2, outputs, inputs, scale=scale), "bfloat16")
    results = [ops.linear(x, ops.pack_linear(weight, BFLOAT16)) for ops in map(cpu_ops, PAIRED)]
    for result in results[1:]:
        np.testing.assert_array_equal(same_or_nan(result), same_or_nan(results[0]))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(2, 70, 3), (1, 32, 65), (35, 9, 2)])
@pytest.mark.parametrize("scale", [1e-19, 1.0, 1e19])
def test_the_best_set_adds_as_defined(rows: int, inputs: int, outputs: int, scale: float) -> None:
    x = round_to_bfloat16(random_floats(1, rows, inputs, scale=scale))
    weight = make_weight(random_floats(2, outputs, inputs, scale=scale), "bfloat16")
    assert isinstance(weight, Bfloat16Weight)
    found = cpu_ops(ISAS[-1]).linear(x, cpu_ops(ISAS[-1]).pack_linear(weight, BFLOAT16))
    define = tile_product if ISAS[-1] == AMX else exact_product
    expected = define(x, bfloat16_to_float32(weight.bits))
    np.testing.assert_array_equal(same_or_nan(found), same_or_nan(expected))


@pytest.mark.parametrize("isa", PAIRED)
def test_the_odd_place_of_a_pair_comes_first(isa: str) -> None:
    """1 + 2**24 + 1: 2**24 in this order, 2**24 + 2 in rising order of k."""
    x = np.array([[1.0, 0.0, 1.0, 2.0**24]], np.float32)
    weight = make_weight(np.ones((1, 4), np.float32), "bfloat16")
    ops = cpu_ops(isa)
    assert ops.linear(x, ops.pack_linear(weight, BFLOAT16)).item() == 2.0**24
    assert ops.linear(x, ops.pack_linear(weight, ActivationType.FLOAT32)).item() == 2.0**24 + 2


@pytest.mark.parametrize("isa", ISAS)
def test_denormals_are_zero_in_these_products_only(isa: str) -> None:
    """No thread keeps the processor's switch: float32 activations have their denormals, also afterwards."""
    ops = cpu_ops(isa)
    tiny = make_weight(np.full((2000, 130), 2.0**-70, np.float32), "bfloat16")
    x = np.full((1, 130), 2.0**-70, np.float32)
    assert not ops.linear(x, ops.pack_linear(tiny, BFLOAT16)).any()
    expected = np.full((1, 2000), 130 * 2.0**-140, np.float32)
    np.testing.assert_array_equal(ops.linear(x, ops.pack_linear(tiny, ActivationType.FLOAT32)), expected)
