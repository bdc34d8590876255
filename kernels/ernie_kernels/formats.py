"""Weight formats: what the numbers of a Linear mean, as pure NumPy functions.

A format fixes the weights; how activations are rounded is a separate choice (``ActivationType``). Matrices are
``[N, K]``: N outputs, K inputs, y = x @ W.T. This module is the golden model of every packer.

Int8 (``wint8``): scale = float32 absmax / 127 per output, q = round half to even of w / scale, clipped to
+-127; an all-zero row has scale 0 and q 0.

Int4: the same with absmax / 7 and +-7, two codes per byte along K (``pack_int4``). ``wint4`` selects
it for routed experts; all else is int8 then, as in FastDeploy.

Int4 in groups (dense Linears of ``wint4_all``): one scale per output and group of ``WEIGHT_GROUP`` inputs, the
last group may be shorter. The largest weight of a group becomes the code -8, whatever its sign, as in
llama.cpp's Q4_0: scale = bfloat16 of that weight / -8, so it may be negative; codes are -8 to 7.

W4A8 (routed experts): int4 weights, and for all tokens one int8 scale of the inputs, absmax / 127 over the
data it was calibrated with; inputs are cut to +-127 codes. Inputs can be rotated first
(``ernie_kernels.hadamard``): then the absmax is that of the rotated inputs, and codes and scales of the weight
are those of the matrix that undoes it. It ignores the activation type.

Other quantized activations have one scale per token and group of inputs (``ACTIVATION_GROUPS``; the last may be
shorter): scale = float32 absmax / levels, code = round half to even of x / scale, clipped to +-levels; a zero
group has scale 0 and codes 0. int8 has 127 levels; int16 has 127 * 128, so that a code is high * 128 + low with
both halves in int8, for hardware that multiplies int8 only.

Bfloat16 activations have no scale: each input is rounded half to even, NaN stays NaN. Products with bfloat16
weights are exact in float32 and added in float32; a backend may fix the order of the sums (the C++ kernels do
as Intel's vdpbf16ps: for each pair of inputs the odd one first, then the even one, denormals being zero; with
AMX as TDPBF16PS: of every 32 inputs the even ones and the odd ones apart).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.hadamard import fold_rotation, rotate_blocks

ACTIVATION_GROUPS = {"int8": 32, "int16": 1024}
"""Inputs that share one activation scale, of each quantized ``ActivationType``, by its value. With int8 more of
them lose accuracy where channels have outliers, fewer cost speed; with int16 any number up to 1024, where
integer sums stop being exact, is as good, and fewer cost speed."""

WEIGHT_GROUP = 64
"""Inputs that share one scale of a ``GroupedInt4Weight``; divides or is divided by ``ACTIVATION_GROUPS``."""

ACTIVATION_LEVELS = {"int8": 127, "int16": 127 * 128}
"""Largest code of each quantized ``ActivationType``, by its value."""


class ActivationType(enum.Enum):
    """How a Linear sees its input. Never depends on how many rows a step has.

    FLOAT32: not rounded. BFLOAT16: for bfloat16 weights only. INT16 (16 bits as two int8 halves) and INT8, with
    one scale per token and group of inputs: for quantized weights; the others see float32 then.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT16 = "int16"
    INT8 = "int8"


@dataclass(frozen=True)
class Float32Weight:
    """A matrix in float32: ``values`` float32 ``[N, K]``."""

    values: NDArray[np.float32]


@dataclass(frozen=True)
class Bfloat16Weight:
    """A matrix in bfloat16: ``bits`` uint16 ``[N, K]``, the upper halves of the float32 values."""

    bits: NDArray[np.uint16]


@dataclass(frozen=True)
class Int8Weight:
    """A matrix in int8 with one scale per output: ``codes`` int8 ``[N, K]``, ``scales`` float32 ``[N]``."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


@dataclass(frozen=True)
class Int4Weight:
    """A matrix in int4 with one scale per output.

    Attributes:
        packed: uint8 ``[N, ceil(K / 2)]``.
        scales: float32 ``[N]``.
        inputs: K.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    inputs: int


@dataclass(frozen=True)
class GroupedInt4Weight:
    """A matrix in int4 with one scale per output and ``WEIGHT_GROUP`` inputs.

    Attributes:
        packed: uint8 ``[N, ceil(K / 2)]``, as in ``Int4Weight``.
        scales: float32 ``[N, ceil(K / WEIGHT_GROUP)]``, values of bfloat16, of either sign.
        inputs: K.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    inputs: int


@dataclass(frozen=True)
class W4A8Weight:
    """An int4 matrix that meets int8 inputs of one static scale.

    Attributes:
        weight: the matrix that meets the (rotated) inputs: W H / B where they are H x.
        input_scale: absmax / 127 of the (rotated) inputs; finite and not negative.
        rotation: block of the Hadamard rotation of the inputs; 0: they are not rotated.
    """

    weight: Int4Weight
    input_scale: float
    rotation: int


@dataclass(frozen=True)
class QuantizedActivations:
    """Rounded inputs of a Linear: ``codes`` int32 ``[T, K]``, ``scales`` float32 ``[T, groups]``."""

    codes: NDArray[np.int32]
    scales: NDArray[np.float32]


QuantizedWeight = Int8Weight | Int4Weight | GroupedInt4Weight
LinearWeight = Float32Weight | Bfloat16Weight | QuantizedWeight | W4A8Weight


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 values of bfloat16 bits, exactly; any shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return bfloat16 bits, rounded half to even; NaN stays NaN; any shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def pack_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return codes -8..7 ``[N, K]`` two per byte: uint8 ``[N, ceil(K / 2)]``.

    Two's complement, the even one of a row in the low nibble; an odd row leaves its last high nibble 0.
    """
    rows, inputs = codes.shape
    nibbles = np.zeros((rows, inputs + inputs % 2), np.uint8)
    nibbles[:, :inputs] = codes.astype(np.uint8) & 15
    return (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).astype(np.uint8)


def unpack_int4(packed: NDArray[np.uint8], inputs: int) -> NDArray[np.int8]:
    """Return the codes int8 ``[N, inputs]`` of ``pack_int4``'s bytes."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)[:, :inputs]
    codes: NDArray[np.int8] = (nibbles ^ 8).astype(np.int8) - np.int8(8)
    return codes


def quantize_int8(values: NDArray[np.float32]) -> Int8Weight:
    """Return ``values`` float32 ``[N, K]`` in the int8 format."""
    return Int8Weight(*_quantize_rows(values, 127))


def quantize_int4(values: NDArray[np.float32]) -> Int4Weight:
    """Return ``values`` float32 ``[N, K]`` in the int4 format."""
    codes, scales = _quantize_rows(values, 7)
    return Int4Weight(pack_int4(codes), scales, values.shape[1])


def quantize_grouped_int4(values: NDArray[np.float32]) -> GroupedInt4Weight:
    """Return ``values`` float32 ``[N, K]`` as int4 in groups; a number that is not finite is in its scale."""
    outputs, inputs = values.shape
    padded = np.pad(values, ((0, 0), (0, -inputs % WEIGHT_GROUP))).reshape(outputs, -1, WEIGHT_GROUP)
    largest, smallest = padded.max(axis=2), padded.min(axis=2)
    scales = round_to_bfloat16(np.where(largest > -smallest, largest, smallest) / np.float32(-8))
    divisors = np.where(scales != 0, scales, np.float32(1))[..., None]
    codes = np.clip(np.rint(padded / divisors), -8, 7).reshape(outputs, -1)[:, :inputs]
    return GroupedInt4Weight(pack_int4(codes.astype(np.int8)), scales, inputs)


def quantize_w4a8(values: NDArray[np.float32], input_absmax: float, rotation: int = 0) -> W4A8Weight:
    """Return ``values`` float32 ``[N, K]`` in the W4A8 format.

    ``input_absmax`` is that of the inputs after rotation in blocks of ``rotation`` (0: none).

    Raises:
        ValueError: the blocks do not divide K, or the absmax is not finite or negative.
    """
    folded = fold_rotation(values, rotation) if rotation else values
    return W4A8Weight(quantize_int4(folded), input_scale(input_absmax), rotation)


def input_scale(absmax: float) -> float:
    """Return absmax / 127 in float32; raises ValueError unless it is finite and not negative."""
    if not 0 <= absmax < float("inf"):
        raise ValueError(f"activation absmax {absmax} must be finite and not negative")
    return float(np.float32(absmax) / np.float32(127))


def quantize_inputs(x: NDArray[np.float32], weight: W4A8Weight) -> QuantizedActivations:
    """Return the inputs ``x`` float32 ``[T, K]`` of a W4A8 product, rotated and as int8 codes of its one scale.

    A row with a number that is not finite has codes 0 and the scale NaN.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rotated = rotate_blocks(x, weight.rotation) if weight.rotation else x
        is_finite = np.isfinite(rotated).all(axis=1, keepdims=True)
        scale = np.float32(weight.input_scale)
        codes = np.rint(rotated / (scale or np.float32(1))).clip(-127, 127)
    scales = np.where(is_finite, scale, np.float32(np.nan))
    return QuantizedActivations(np.where(is_finite & (scale > 0), codes, 0).astype(np.int32), scales)


def _quantize_rows(values: NDArray[np.float32], levels: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scales = (np.abs(values).max(axis=1, initial=0.0) / np.float32(levels)).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.clip(np.rint(values / divisors), -levels, levels).astype(np.int8), scales


def int4_columns(weight: Int4Weight, columns: range) -> Int4Weight:
    """Return the weight of some of the inputs, with the scales of all of them."""
    if columns == range(weight.inputs):
        return weight
    codes = unpack_int4(weight.packed, weight.inputs)[:, columns.start : columns.stop]
    return Int4Weight(pack_int4(codes), weight.scales, len(columns))


def weight_codes(weight: QuantizedWeight) -> NDArray[np.int8]:
    """Return the integer codes of a quantized weight: int8 ``[N, K]``."""
    return weight.codes if isinstance(weight, Int8Weight) else unpack_int4(weight.packed, weight.inputs)


def code_scales(weight: QuantizedWeight) -> NDArray[np.float32]:
    """Return the scale of each code: float32 ``[N, K]``, or ``[N, 1]`` if all of an output share one."""
    if not isinstance(weight, GroupedInt4Weight):
        return weight.scales[:, None]
    return np.repeat(weight.scales, WEIGHT_GROUP, axis=1)[:, : weight.inputs]


def dequantize(weight: LinearWeight) -> NDArray[np.float32]:
    """Return the float32 ``[N, K]`` matrix that a weight stands for."""
    if isinstance(weight, Float32Weight):
        return weight.values
    if isinstance(weight, Bfloat16Weight):
        return bfloat16_to_float32(weight.bits)
    if isinstance(weight, W4A8Weight):
        folded = dequantize(weight.weight)
        return rotate_blocks(folded, weight.rotation) if weight.rotation else folded
    return weight_codes(weight).astype(np.float32) * code_scales(weight)


def check_activation(weight: LinearWeight, activation: ActivationType) -> None:
    """Raise ValueError if ``weight`` cannot meet inputs rounded to ``activation``."""
    if activation is ActivationType.BFLOAT16 and not isinstance(weight, Bfloat16Weight):
        raise ValueError(
            f"activation bfloat16 does not fit {type(weight).__name__}; it fits Bfloat16Weight only, "
            "use float32, or int16 or int8 with a quantized weight"
        )


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float32 values of ``values`` in bfloat16; any shape."""
    return bfloat16_to_float32(float32_to_bfloat16(values))


def activation_group(activation: ActivationType) -> int:
    """Return how many inputs of a row share an activation scale; types without scales have any number."""
    return ACTIVATION_GROUPS.get(activation.value, max(ACTIVATION_GROUPS.values()))


def activation_groups(width: int, group: int) -> list[slice]:
    """Return the columns of each group of ``group`` inputs of a row of ``width``, in order."""
    return [slice(start, min(start + group, width)) for start in range(0, width, group)]


def quantize_activations(
    x: NDArray[np.float32], activation: ActivationType, group: int | None = None
) -> QuantizedActivations:
    """Return ``x`` float32 ``[T, K]`` as int8 or int16 codes with one scale per token and group.

    Args:
        x: the numbers.
        activation: the type of the codes.
        group: inputs that share a scale; None: as ``ACTIVATION_GROUPS`` says.

    Raises:
        ValueError: ``activation`` has no codes.
    """
    if activation.value not in ACTIVATION_LEVELS:
        raise ValueError(f"activation {activation.value} has no codes; use int8 or int16")
    levels = np.float32(ACTIVATION_LEVELS[activation.value])
    groups = activation_groups(x.shape[1], group or activation_group(activation))
    codes = np.zeros(x.shape, np.int32)
    scales = np.zeros((x.shape[0], len(groups)), np.float32)
    for index, columns in enumerate(groups):
        scale = (np.abs(x[:, columns]).max(axis=1) / levels).astype(np.float32)
        divisor = np.where(scale > 0, scale, np.float32(1))[:, None]
        codes[:, columns] = np.clip(np.rint(x[:, columns] / divisor), -levels, levels)
        codes[scale == 0, columns] = 0
        scales[:, index] = scale
    return QuantizedActivations(codes, scales)
