"""The block Hadamard rotation: spreads a large number over its block before rounding.

Each block of B numbers (B a power of two) becomes H x / sqrt(B), where H is Sylvester's matrix,
H[i, j] = (-1) ** popcount(i & j). H / sqrt(B) is symmetric and its own inverse, so that rotating the inputs of
a product and the columns of its weight changes nothing but what rounding costs.

The sums are made as a fast Walsh-Hadamard transform, distances 1, 2, 4, ... in this order, and one product at
the end: every backend that follows gives the same bits. This module must not know what is rotated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_BLOCK = 1024


def check_block(block: int, width: int) -> None:
    """Check that rows of ``width`` numbers can be rotated in blocks.

    Raises:
        ValueError: ``block`` is no power of two up to ``LARGEST_BLOCK``, or does not divide ``width``.
    """
    if not 2 <= block <= LARGEST_BLOCK or block & (block - 1):
        raise ValueError(f"Hadamard block {block} must be a power of two from 2 to {LARGEST_BLOCK}")
    if width % block:
        raise ValueError(f"Hadamard block {block} does not divide the width {width}")


def rotate_blocks(x: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return ``x`` float32 ``[T, K]`` with each block of a row rotated.

    Raises:
        ValueError: see ``check_block``.
    """
    rows, width = x.shape
    check_block(block, width)
    y = x.astype(np.float32)
    distance = 1
    while distance < block:
        pairs = y.reshape(rows, width // (2 * distance), 2, distance)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        y = np.stack([first + second, first - second], axis=2)
        distance *= 2
    rotated: NDArray[np.float32] = y.reshape(rows, width) * rotation_factor(block)
    return rotated


def rotation_factor(block: int) -> np.float32:
    """Return 1 / sqrt(block)."""
    return np.float32(block**-0.5)
