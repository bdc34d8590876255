"""Weights as the tensors of FastDeploy's offline-quantized checkpoints (``weights.offline`` reads them).

This module must not know where weights come from or where the tensors go.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ernie_backend.weights.offline import StoredWeight
from ernie_backend.weights.placement import WeightFormat
from ernie_backend.weights.stored_floats import float32_blocks
from ernie_kernels.formats import quantize_int4, quantize_int8
from ernie_kernels.hadamard import fold_rotation

Tensors = Mapping[str, NDArray[np.generic]]


def quantized_tensors(
    stored: StoredWeight,
    kept: WeightFormat,
    values: NDArray[np.generic],
    input_absmax: float = 0.0,
    rotation: int = 0,
) -> Tensors:
    """Return the tensors of a quantized weight, by name.

    Args:
        stored: their names and shapes.
        kept: the format.
        values: the weight ``[N, K]``: floats, or bfloat16 bits as uint16.
        input_absmax: for w4a8, that of the inputs, rotated if they are.
        rotation: block of the rotation of the inputs, which the weight undoes; 0: they are not rotated.
    """
    codes = np.empty(stored.codes.shape, np.int8)
    absmax = np.empty(stored.absmax.shape, np.float32)
    for rows, block in float32_blocks(values):
        seen = fold_rotation(block, rotation) if rotation else block
        absmax[rows] = np.abs(seen).max(axis=1, initial=0.0)
        if kept is WeightFormat.INT8:
            codes[:, rows] = quantize_int8(seen).codes.T
        else:
            codes[:, rows] = quantize_int4(seen).packed.view(np.int8).T
    tensors: dict[str, NDArray[np.generic]] = {stored.codes.name: codes, stored.absmax.name: absmax}
    if stored.input_absmax is not None:
        tensors[stored.input_absmax.name] = np.array([input_absmax], np.float32)
    return tensors
