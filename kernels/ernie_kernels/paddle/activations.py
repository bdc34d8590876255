"""Products of int4 weights with inputs of one static int8 scale (w4a8), as float32 Paddle ops on integers.

The numbers are those of ``formats.quantize_inputs``. Sums of integers stay below 2**24, so float32, with TF32
operands of at most 8 bits, holds them exactly. The device only has to divide as IEEE 754 says and to round
halves to even, as Paddle's CPU place does. The rotation is made of additions in the golden model's order: a
product with a Hadamard matrix would round differently, and in TF32 far more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ernie_kernels.formats import W4A8Weight
from ernie_kernels.hadamard import check_block
from ernie_kernels.paddle.place import Place, Tensor, paddle

MOST_INPUTS = 2**24 // (127 * 8)
"""Of a product; with more, float32 would round the sums."""
_SMALLEST_SCALE = float(np.finfo(np.float32).smallest_subnormal)
"""Stands for a scale of 0, of inputs that were all zero: 0 divided by it is 0."""


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
    rounded = paddle.clip(paddle.round(rotated / paddle.clip(inputs.scale, min=_SMALLEST_SCALE)), -127.0, 127.0)
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
