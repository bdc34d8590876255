"""Floats as files hold them: float32, float16, or bfloat16 as uint16 bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.formats import bfloat16_to_float32, float32_to_bfloat16

_ROWS = 4096
"""Rows that are converted together: a whole vocabulary in float32 would take gigabytes."""


def as_float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the numbers as float32; any shape."""
    if stored.dtype == np.uint16:
        return bfloat16_to_float32(stored.view(np.uint16))
    return stored.astype(np.float32, copy=False)


def as_bfloat16(stored: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Return the numbers as bfloat16 bits; any shape."""
    if stored.dtype == np.uint16:
        return stored.view(np.uint16)
    return float32_to_bfloat16(as_float32(stored))


def float32_blocks(stored: NDArray[np.generic]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the rows of ``[N, K]`` in blocks, as float32, with their indices."""
    for start in range(0, len(stored), _ROWS):
        rows = slice(start, min(start + _ROWS, len(stored)))
        yield rows, as_float32(stored[rows])


def finite_outputs(stored: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return for each row of ``[N, K]``, or number of ``[K]``, whether all of it is finite: bool ``[N]``."""
    is_finite = np.empty(len(stored), np.bool_)
    for rows, block in float32_blocks(stored):
        is_finite[rows] = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    return is_finite
