"""Floats as files hold them: float32, float16, or bfloat16 as uint16 bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.formats import bfloat16_to_float32, float32_to_bfloat16

_BLOCK_NUMBERS = 1 << 17
"""Numbers that are converted together: what is made of them on the way stays in the cache of a core, and in
memory that has been touched before."""


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
    num_rows = max(1, _BLOCK_NUMBERS * len(stored) // max(1, stored.size))
    for start in range(0, len(stored), num_rows):
        rows = slice(start, min(start + num_rows, len(stored)))
        yield rows, as_float32(stored[rows])


def finite_outputs(stored: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return for each row of ``[N, K]``, or number of ``[K]``, whether all of it is finite: bool ``[N]``."""
    is_finite = np.empty(len(stored), np.bool_)
    for rows, block in float32_blocks(stored):
        is_finite[rows] = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    return is_finite
