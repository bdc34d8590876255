"""Products of quantized weights with rounded activations, as float32 Paddle ops on integers.

The numbers are those of ``formats.quantize_activations`` (a scale per token and group) and
``formats.quantize_inputs`` (w4a8: a static scale, rotated inputs). Sums of integers stay below 2**24, so
float32, with TF32 operands of at most 8 bits, holds them exactly; scaling and adding the groups are the same
float32 operations as in the reference. The device only has to divide and add as IEEE 754 says and to round
halves to even, as Paddle's CPU place does. The rotation is made of additions in the golden model's order: a
product with a Hadamard matrix would round differently, and in TF32 far more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ernie_kernels.formats import ACTIVATION_LEVELS, ActivationType, W4A8Weight, activation_groups
from ernie_kernels.hadamard import check_block
from ernie_kernels.paddle.place import Place, Tensor, paddle

MOST_INPUTS = 2**24 // (127 * 8)
"""Of a w4a8 product; with more, float32 would round the sums."""
_SMALLEST_GROUP_SCALE = float(np.finfo(np.float32).tiny)
_SMALLEST_STATIC_SCALE = float(np.finfo(np.float32).smallest_subnormal)
"""These stand for a scale of 0, of inputs that were all zero: 0 divided by them is 0."""


def multiply_grouped(x: Tensor, codes: Tensor, scales: Tensor, activation: ActivationType) -> Tensor:
    """Return float32 ``[T, N]``: rounded x ``[T, K]`` times int8 codes ``[N, K]``, times scales ``[N]``."""
    widths = [columns.stop - columns.start for columns in activation_groups(x.shape[1])]
    inputs = paddle.split(x, widths, axis=1)
    weights = paddle.split(codes.astype("float32"), widths, axis=1)
    products = [_multiply_group(*pair, activation) for pair in zip(inputs, weights, strict=True)]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total * scales


def _multiply_group(x: Tensor, weight: Tensor, activation: ActivationType) -> Tensor:
    levels = ACTIVATION_LEVELS[activation.value]
    scale = paddle.max(paddle.abs(x), axis=1, keepdim=True) / paddle.full([1], levels, "float32")
    quotients = x / paddle.clip(scale, min=_SMALLEST_GROUP_SCALE)
    codes = paddle.clip(paddle.round(quotients), -levels, levels)
    if activation is ActivationType.INT8:
        return paddle.matmul(codes, weight, transpose_y=True) * scale
    # An int16 code is high * 128 + low with both in int8, so two products over int8 make its sum.
    high = paddle.floor((codes + 64.0) * (1 / 128))
    low = codes - high * 128.0
    high_sum = paddle.matmul(high, weight, transpose_y=True)
    return (high_sum * 128.0 + paddle.matmul(low, weight, transpose_y=True)) * scale


@dataclass(frozen=True)
class StaticInputs:
    """How the inputs of a matrix are rounded: ``scale`` float32 ``[1]``, ``rotation`` as in ``W4A8Weight``."""

    scale: Tensor
    rotation: int

    @classmethod
    def pack(cls, weight: W4A8Weight, place: Place) -> StaticInputs:
        """Bring the scale to ``place``.

        Raises:
            ValueError: the weight has too many inputs, or its rotation does not fit them.
        """
        inputs = weight.weight.inputs
        if inputs > MOST_INPUTS:
            raise ValueError(f"a W4A8 weight on Paddle has at most {MOST_INPUTS} inputs; this one has {inputs}")
        if weight.rotation:
            check_block(weight.rotation, inputs)
        return cls(place.upload(np.array([weight.input_scale], np.float32)), weight.rotation)


def multiply_static(x: Tensor, codes: Tensor, scales: Tensor, inputs: StaticInputs) -> Tensor:
    """Return float32 ``[T, N]``: rounded x ``[T, K]`` times int8 codes ``[N, K]``, times scales ``[N]``.

    A row with a number that is not finite is NaN.
    """
    rotated = _rotate_blocks(x, inputs.rotation) if inputs.rotation else x
    rounded = paddle.clip(
        paddle.round(rotated / paddle.clip(inputs.scale, min=_SMALLEST_STATIC_SCALE)), -127.0, 127.0
    )
    sums = paddle.matmul(rounded, codes.astype("float32"), transpose_y=True)
    poison = paddle.sum(rotated * 0.0, axis=1, keepdim=True)
    return sums * (inputs.scale + poison) * scales


def _rotate_blocks(x: Tensor, block: int) -> Tensor:
    rows, width = x.shape
    distance = 1
    while distance < block:
        pairs = x.reshape((rows, width // (2 * distance), 2, distance))
        first, second = (half.squeeze(2) for half in paddle.split(pairs, 2, axis=2))
        x = paddle.stack((first + second, first - second), axis=2)
        distance *= 2
    return x.reshape((rows, width))
