"""Products of int8 weights with rounded activations, as float32 Paddle ops on integers.

The numbers are those of ``formats.quantize_activations``. Every matrix product here is over integers of at most
8 bits and 128 inputs, so its sums stay below 2**24: float32 (and TF32 operands) hold them exactly. Scaling and
adding the groups are the same float32 operations as in the reference. What is left to the device is to divide
and add as IEEE 754 says and to round halves to even, as Paddle's CPU place does.
"""

from __future__ import annotations

import numpy as np

from ernie_kernels.formats import ACTIVATION_LEVELS, ActivationType, activation_groups
from ernie_kernels.paddle.place import Tensor, paddle

_SMALLEST_DIVISOR = float(np.finfo(np.float32).tiny)
"""Stands for the scale 0 of an all-zero group: 0 / tiny is 0."""


def multiply(x: Tensor, codes: Tensor, scales: Tensor, activation: ActivationType) -> Tensor:
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
    quotients = x / paddle.clip(scale, min=_SMALLEST_DIVISOR)
    codes = paddle.clip(paddle.round(quotients), -levels, levels)
    if activation is ActivationType.INT8:
        return paddle.matmul(codes, weight, transpose_y=True) * scale
    high = paddle.floor((codes + 64.0) * (1 / 128))
    low = codes - high * 128.0
    high_sum = paddle.matmul(high, weight, transpose_y=True)
    return (high_sum * 128.0 + paddle.matmul(low, weight, transpose_y=True)) * scale
