"""The block Hadamard rotation: spreads a large number over its block before rounding.

Each block of B inputs (B a power of two) becomes H x, where H is Sylvester's matrix, H[i, j] = (-1) **
popcount(i & j): sums and differences only, without the factor 1 / sqrt(B) that would keep lengths. FastDeploy's
kernels do so, and the scales of its checkpoints are made for it. H is symmetric and H H = B, so that the weight
W H / B gives with H x the product W x: nothing changes but what rounding costs.

The sums are made as a fast Walsh-Hadamard transform, distances 1, 2, 4, ... in this order: every backend that
follows gives the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_BLOCK = 1024


def check_block(block: int, width: int) -> None:
    """Check that rows of ``width`` numbers can be rotated in blocks.

    Raises:
        ValueError: ``block`` is not a power of two up to ``LARGEST_BLOCK``, or does not divide ``width``.
    """
    if not 2 <= block <= LARGEST_BLOCK or block & (block - 1):
        raise ValueError(f"Hadamard block {block} must be a power of two from 2 to {LARGEST_BLOCK}")
    if width % block:
        raise ValueError(f"Hadamard block {block} does not divide the width {width}")


def rotate_blocks(x: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return ``x`` float32 ``[T, K]`` with H x in place of each block x of a row.

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
    return y.reshape(rows, width)


def fold_rotation(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return the matrix that gives with rotated inputs what ``values`` float32 ``[N, K]`` gives without.

    Raises:
        ValueError: see ``check_block``.
    """
    folded: NDArray[np.float32] = rotate_blocks(values, block) / np.float32(block)
    return folded
