"""Matrix products of a weight format and an activation type.

What rounding costs on the dense golden (wint8; 169 positions: 4 prompts and their greedy tokens; least and mean
cosine of the logits against float32 activations), by inputs that share a scale:

    group   int8               int16
       32   0.9924, 0.99946    0.9999999, 0.99999997
       64   0.9873, 0.99927    0.9999997, 0.99999996
      128   0.9855, 0.99916    0.9999996, 0.99999995

No group lets int8 hold 0.999 at every position; int16 holds it with the largest, which is the fastest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.formats import (
    WEIGHT_GROUP,
    ActivationType,
    GroupedInt4Weight,
    LinearWeight,
    QuantizedWeight,
    W4A8Weight,
    activation_group,
    activation_groups,
    dequantize,
    quantize_activations,
    quantize_inputs,
    round_to_bfloat16,
    weight_codes,
)


def linear(x: NDArray[np.float32], weight: LinearWeight, activation: ActivationType) -> NDArray[np.float32]:
    """Return x @ W.T, ``[T, K]`` to ``[T, N]``; int16 and int8 round the inputs of quantized weights only."""
    if isinstance(weight, QuantizedWeight) and activation is not ActivationType.FLOAT32:
        return quantized_linear(x, weight, activation)
    if activation is ActivationType.BFLOAT16:
        x = round_to_bfloat16(x)
    if isinstance(weight, W4A8Weight):
        return w4a8_linear(x, weight)
    return x @ dequantize(weight).T


def quantized_linear(
    x: NDArray[np.float32], weight: QuantizedWeight, activation: ActivationType
) -> NDArray[np.float32]:
    """Return x @ W.T with exact integer sums of inputs that share all scales, accumulated in float32."""
    group = activation_group(activation)
    quantized = quantize_activations(x, activation, group)
    codes = weight_codes(weight)
    is_grouped = isinstance(weight, GroupedInt4Weight)
    together = min(group, WEIGHT_GROUP) if is_grouped else group
    total = np.zeros((len(x), len(codes)), np.float32)
    for columns in activation_groups(x.shape[1], together):
        # float64 holds these integer sums exactly and has a matrix product
        sums = quantized.codes[:, columns].astype(np.float64) @ codes[:, columns].astype(np.float64).T
        scaled = sums.astype(np.float32) * quantized.scales[:, [columns.start // group]]
        total += scaled * weight.scales[:, columns.start // WEIGHT_GROUP] if is_grouped else scaled
    return total if is_grouped else total * weight.scales


def w4a8_linear(x: NDArray[np.float32], weight: W4A8Weight) -> NDArray[np.float32]:
    """Return int8 inputs times int4 weights: exact integer sums over all inputs, then the scales."""
    quantized = quantize_inputs(x, weight)
    sums = quantized.codes.astype(np.float64) @ weight_codes(weight.weight).astype(np.float64).T
    product: NDArray[np.float32] = sums.astype(np.float32) * quantized.scales * weight.weight.scales
    return product
