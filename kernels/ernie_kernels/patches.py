"""Patches of images: where each one is in its frame, and the tables that backends make of that.

All pure NumPy, made alike by every backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ATTENTION_DTYPES = ("float32", "bfloat16")
"""How queries, keys, values and weights of patches may be rounded before they are multiplied."""


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one frame, ``height`` times ``width`` of them.

    ``block``: they are in raster order of blocks of ``block`` x ``block``, and inside a block too; 1: in
    raster order. Both sides are multiples of it.
    """

    height: int
    width: int
    block: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.block) < 1 or self.height % self.block or self.width % self.block:
            raise ValueError(
                f"a grid of {self.height} x {self.width} patches does not consist of blocks of {self.block} x "
                f"{self.block}; give sides that are positive multiples of {self.block}"
            )

    @property
    def size(self) -> int:
        """Patches of a frame."""
        return self.height * self.width

    def coordinates(self) -> NDArray[np.int64]:
        """Return the row and the column of each patch, in their order: ``[size, 2]``."""
        rows, columns = np.divmod(np.arange(self.size), self.width)
        order = _in_blocks(self.height, self.width, self.block)
        return np.stack([rows[order], columns[order]], axis=1)


@dataclass(frozen=True)
class PatchCacheSpec:
    """Queries, keys and values of ``rows`` patches: whole frames of ``frame`` patches each.

    A patch attends to the patches of its frame. ``dtype`` is one of ``ATTENTION_DTYPES``: with ``bfloat16``,
    rotated queries and keys, values, and the weights of values are rounded to it; sums are float32.
    """

    rows: int
    frame: int
    num_heads: int
    head_dim: int
    dtype: str

    def __post_init__(self) -> None:
        if min(self.rows, self.frame, self.num_heads, self.head_dim) < 1 or self.rows % self.frame:
            raise ValueError(f"sizes of a patch cache must be positive, and frames whole; found {self}")
        if self.head_dim % 4:
            raise ValueError(f"head_dim {self.head_dim} of patches must be a multiple of 4")
        if self.dtype not in ATTENTION_DTYPES:
            raise ValueError(f"dtype {self.dtype!r} of patches is not one of {', '.join(ATTENTION_DTYPES)}")

    def check_rows(self, begin: int, end: int) -> None:
        """Raise ValueError unless rows ``begin`` to ``end`` - 1 are some of the cache's."""
        if not 0 <= begin < end <= self.rows:
            raise ValueError(f"rows {begin} to {end} are not among the {self.rows} of the patch cache")


def _in_blocks(height: int, width: int, block: int) -> NDArray[np.int64]:
    """Return the raster indices of patches in raster order of blocks of ``block`` x ``block``."""
    raster = np.arange(height * width).reshape(height // block, block, width // block, block)
    return raster.transpose(0, 2, 1, 3).reshape(-1)


def axial_rotary_table(
    grid: PatchGrid, head_dim: int, theta: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines ``[size, head_dim / 2]`` of the patches of a frame.

    Pairs are (i, i + head_dim / 2). Pair i of the first half of them turns by row * theta ** (-4i / head_dim),
    of the second half by column: computed in float64.
    """
    frequencies = theta ** (-np.arange(0, head_dim // 2, 2, dtype=np.float64) / (head_dim // 2))
    angles = (grid.coordinates()[:, :, None] * frequencies).reshape(grid.size, -1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def position_samples(grid: PatchGrid, side: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return where the patches of a frame are in a table of ``side`` x ``side`` positions.

    Bilinear interpolation, as of an image that is resized without aligned corners; beyond the table its edge
    repeats.

    Returns:
        The rows of the table, int32 ``[size, 4]``, and their weights, float32 ``[size, 4]``.
    """
    rows, columns = grid.coordinates().T
    upper, lower, down = _samples(rows, grid.height, side)
    left, right, across = _samples(columns, grid.width, side)
    indices = [upper * side + left, upper * side + right, lower * side + left, lower * side + right]
    weights = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    return np.stack(indices, axis=1).astype(np.int32), np.stack(weights, axis=1).astype(np.float32)


def _samples(
    places: NDArray[np.int64], count: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two neighbors of each place of ``count`` in a row of ``side``, and the second's weight."""
    half = np.float32(0.5)
    source = (places.astype(np.float32) + half) * np.float32(side) / np.float32(count) - half
    before = np.floor(source)
    first = before.astype(np.int64)
    clamped = np.clip(first, 0, side - 1), np.clip(first + 1, 0, side - 1)
    return *clamped, (source - before).astype(np.float32)


def merged_blocks(grid: PatchGrid, block: int) -> NDArray[np.int32]:
    """Return the patches of each block of a frame, in raster order of blocks: ``[size / block^2, block^2]``.

    The grid is in raster order, or already in the order of such blocks.

    Raises:
        ValueError: the grid does not consist of such blocks, or is in the order of others.
    """
    if grid.block not in (1, block):
        raise ValueError(
            f"blocks of {block} are not merged from patches in the order of blocks of {grid.block}"
        )
    PatchGrid(grid.height, grid.width, block)
    order = np.arange(grid.size) if grid.block == block else _in_blocks(grid.height, grid.width, block)
    return order.reshape(-1, block * block).astype(np.int32)


def merged_frames(frames: int, size: int) -> NDArray[np.int32]:
    """Return the rows that merge each pair of frames of ``size`` rows; a single frame is merged with itself.

    Returns:
        ``[max(1, frames / 2) * size, 2]``.

    Raises:
        ValueError: the number of frames is odd, and not 1.
    """
    if frames == 1:
        return np.repeat(np.arange(size, dtype=np.int32)[:, None], 2, axis=1)
    if frames < 1 or frames % 2:
        raise ValueError(f"{frames} frames do not make pairs; repeat the last one")
    pairs = np.arange(frames * size, dtype=np.int32).reshape(-1, 2, size)
    return pairs.transpose(0, 2, 1).reshape(-1, 2)
