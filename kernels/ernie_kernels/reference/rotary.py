"""Rotation of queries and keys by their positions (RoFormer)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.rotary import RotaryTable


def rotate(x: NDArray[np.float32], positions: NDArray[np.int32], table: RotaryTable) -> NDArray[np.float32]:
    """Rotate the pairs of ``x [T, heads, head_dim]`` by each token's position."""
    cosines, sines = table.cosines[positions][:, None], table.sines[positions][:, None]
    half = table.spec.head_dim // 2
    if table.spec.interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = x[..., :half], x[..., half:]
    rotated = [first * cosines - second * sines, second * cosines + first * sines]
    joined: NDArray[np.float32]
    joined = np.stack(rotated, axis=-1) if table.spec.interleaved else np.concatenate(rotated, axis=-1)
    return joined.reshape(x.shape)
