"""The weight formats and the activation quantizers: their definition, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ernie_kernels.formats import (
    ACTIVATION_LEVELS,
    WEIGHT_GROUP,
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    activation_groups,
    bfloat16_to_float32,
    check_activation,
    dequantize,
    float32_to_bfloat16,
    pack_int4,
    quantize_activations,
    quantize_grouped_int4,
    quantize_inputs,
    quantize_int4,
    quantize_int8,
    quantize_w4a8,
    unpack_int4,
    weight_codes,
)

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-(2.0**99), 2.0**99, width=32),
)
QUANTIZED = [ActivationType.INT8, ActivationType.INT16]


@settings(deadline=None)
@given(st.integers(0, 0xFFFF))
def test_bfloat16_round_trip(pattern: int) -> None:
    bits = np.array([pattern], np.uint16)
    values = bfloat16_to_float32(bits)
    if np.isnan(values[0]):
        assert np.isnan(bfloat16_to_float32(float32_to_bfloat16(values)))[0]
    else:
        assert float32_to_bfloat16(values)[0] == pattern


def test_bfloat16_rounds_half_to_even() -> None:
    values = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF], np.uint32).view(np.float32)
    assert float32_to_bfloat16(values).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80]


@settings(deadline=None)
@given(MATRICES)
def test_int8_weight_is_within_half_a_step(values: NDArray[np.float32]) -> None:
    weight = quantize_int8(values)
    assert weight.codes.min() >= -127
    error = np.abs(dequantize(weight).astype(np.float64) - values)
    assert (error <= weight.scales[:, None].astype(np.float64) * 0.50001 + 1e-42).all()


def test_int8_weight_of_a_worked_example() -> None:
    weight = quantize_int8(np.array([[-254, 1, 3, 4], [0, 0, 0, 0]], np.float32))
    assert weight.scales.tolist() == [2.0, 0.0]
    assert weight.codes.tolist() == [[-127, 0, 2, 2], [0, 0, 0, 0]]


GROUPED = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 2 * WEIGHT_GROUP + 3)),
    elements=st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda value: value == 0 or abs(value) > 2.0**-99),
)


@settings(deadline=None)
@given(GROUPED)
def test_a_group_of_int4_is_within_half_a_step_of_its_own_scale(values: NDArray[np.float32]) -> None:
    """Only the opposite of the largest weight, 8 steps away where 7 is the last code, is up to a step off."""
    weight = quantize_grouped_int4(values)
    assert weight.scales.shape == (len(values), -(-values.shape[1] // WEIGHT_GROUP))
    np.testing.assert_array_equal(weight.scales, bfloat16_to_float32(float32_to_bfloat16(weight.scales)))
    for group in range(weight.scales.shape[1]):
        columns = slice(group * WEIGHT_GROUP, (group + 1) * WEIGHT_GROUP)
        alone = quantize_grouped_int4(values[:, columns])
        np.testing.assert_array_equal(alone.scales[:, 0], weight.scales[:, group])
        np.testing.assert_array_equal(weight_codes(alone), weight_codes(weight)[:, columns])
        steps = np.abs(weight.scales[:, [group]].astype(np.float64))
        error = np.abs(dequantize(alone).astype(np.float64) - values[:, columns])
        is_cut = np.abs(values[:, columns]) > 7.4 * steps
        assert (error <= steps * np.where(is_cut, 1.05, 0.51)).all()


def test_a_group_of_int4_of_a_worked_example() -> None:
    """The largest weight, of either sign, is the code -8; the next group has a scale of its own."""
    values = np.zeros((1, WEIGHT_GROUP + 2), np.float32)
    values[0, :4], values[0, WEIGHT_GROUP:] = (16, -15, 3, -14), (-8, 2)
    weight = quantize_grouped_int4(values)
    assert weight.scales.tolist() == [[-2.0, 1.0]]
    codes = weight_codes(weight)[0]
    assert codes[:4].tolist() == [-8, 7, -2, 7]
    assert codes[WEIGHT_GROUP:].tolist() == [-8, 2]


@settings(deadline=None)
@given(MATRICES)
def test_int4_weight_is_within_half_a_step(values: NDArray[np.float32]) -> None:
    weight = quantize_int4(values)
    assert weight.packed.shape == (len(values), (values.shape[1] + 1) // 2)
    codes = weight_codes(weight)
    assert codes.shape == values.shape
    assert np.abs(codes.astype(np.int32)).max() <= 7
    error = np.abs(dequantize(weight).astype(np.float64) - values)
    assert (error <= weight.scales[:, None].astype(np.float64) * 0.50001 + 1e-42).all()


def test_int4_weight_of_a_worked_example() -> None:
    """Half rounds to even; even k in the low nibble; an odd K leaves the last high nibble 0."""
    weight = quantize_int4(np.array([[-14, 1, 3, 5, 14], [0, 0, 0, 0, 0]], np.float32))
    assert weight.scales.tolist() == [2.0, 0.0]
    assert weight_codes(weight).tolist() == [[-7, 0, 2, 2, 7], [0, 0, 0, 0, 0]]
    assert weight.packed.tolist() == [[0x09, 0x22, 0x07], [0, 0, 0]]


@settings(deadline=None)
@given(hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(-8, 7)))
def test_int4_codes_pack_and_unpack(codes: NDArray[np.int8]) -> None:
    np.testing.assert_array_equal(unpack_int4(pack_int4(codes), codes.shape[1]), codes)


def test_dequantize_of_float_formats() -> None:
    values = np.array([[1.5, -2.0]], np.float32)
    assert dequantize(Float32Weight(values)) is values
    np.testing.assert_array_equal(dequantize(Bfloat16Weight(float32_to_bfloat16(values))), values)


def test_activation_groups_cover_the_row_in_order() -> None:
    assert activation_groups(300, 128) == [slice(0, 128), slice(128, 256), slice(256, 300)]
    assert activation_groups(1, 128) == [slice(0, 1)]


@pytest.mark.parametrize("activation", QUANTIZED)
@settings(deadline=None)
@given(values=MATRICES, group=st.sampled_from([4, 32, 128]))
def test_activations_are_within_half_a_step(
    activation: ActivationType, values: NDArray[np.float32], group: int
) -> None:
    quantized = quantize_activations(values, activation, group)
    levels = ACTIVATION_LEVELS[activation.value]
    assert np.abs(quantized.codes).max() <= levels
    for index, columns in enumerate(activation_groups(values.shape[1], group)):
        scale = quantized.scales[:, index : index + 1].astype(np.float64)
        error = np.abs(quantized.codes[:, columns] * scale - values[:, columns])
        assert (error <= scale * 0.502 + 1e-38).all()


def test_activations_of_a_worked_example() -> None:
    x = np.array([[127, 0.5, 1.5, -2.5, 0, 0, 0, 0]], np.float32)
    quantized = quantize_activations(x, ActivationType.INT8, 4)
    assert quantized.codes.tolist() == [[127, 0, 2, -2, 0, 0, 0, 0]]
    assert quantized.scales.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("activation", [ActivationType.FLOAT32, ActivationType.BFLOAT16])
def test_float_activations_have_no_codes(activation: ActivationType) -> None:
    with pytest.raises(ValueError, match=f"{activation.value} has no codes"):
        quantize_activations(np.zeros((1, 1), np.float32), activation)


def test_bfloat16_activations_fit_bfloat16_weights_only() -> None:
    values = np.ones((1, 2), np.float32)
    for weight in (Float32Weight(values), quantize_int8(values), quantize_int4(values)):
        with pytest.raises(
            ValueError, match=f"bfloat16 does not fit {type(weight).__name__}; it fits Bfloat16"
        ):
            check_activation(weight, ActivationType.BFLOAT16)
        check_activation(weight, ActivationType.INT8)
    check_activation(Bfloat16Weight(float32_to_bfloat16(values)), ActivationType.BFLOAT16)


def test_w4a8_inputs_of_a_worked_example() -> None:
    """Half to even, and cut, at scale 2; then a block of two, which becomes (a + b, a - b)."""
    x = np.array([[3, -5], [1000, 1], [np.nan, 1]], np.float32)
    weight = quantize_w4a8(np.ones((1, 2), np.float32), 254)
    quantized = quantize_inputs(x, weight)
    np.testing.assert_array_equal(quantized.codes, [[2, -2], [127, 0], [0, 0]])
    np.testing.assert_array_equal(quantized.scales, np.array([[2.0], [2.0], [np.nan]]))
    rotated = quantize_inputs(x[:2], quantize_w4a8(np.ones((1, 2), np.float32), 254, 2))
    np.testing.assert_array_equal(rotated.codes, [[-1, 4], [127, 127]])


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 3), st.sampled_from([0, 2, 64]), st.integers(0, 999))
def test_w4a8_weights_stand_for_their_values(outputs: int, blocks: int, rotation: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((outputs, 64 * blocks)).astype(np.float32)
    weight = quantize_w4a8(values, 1.0, rotation)
    # The error of a row is that of its codes, half a step at most in each, as long as the rotation makes it.
    errors = np.linalg.norm(dequantize(weight) - values, axis=1) / np.sqrt(max(1, rotation))
    assert (errors <= weight.weight.scales * 0.501 * np.sqrt(64 * blocks)).all()
