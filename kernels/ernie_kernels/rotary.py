"""Tables of rotary embeddings (RoFormer), which every backend makes alike.

This module must not know any backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import RotarySpec


@dataclass(frozen=True)
class RotaryTable:
    """``cosines`` and ``sines`` float32 ``[max_positions, head_dim / 2]`` of one spec."""

    spec: RotarySpec
    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


def rotary_table(spec: RotarySpec) -> RotaryTable:
    """Make the table: angle = position * theta ** (-2i / head_dim), in float64, stored as float32.

    Raises:
        ValueError: ``head_dim`` is odd or a size is not positive.
    """
    if spec.head_dim <= 0 or spec.head_dim % 2 or spec.max_positions <= 0:
        raise ValueError(
            f"rotary head_dim {spec.head_dim} must be even and positive, "
            f"max_positions {spec.max_positions} positive"
        )
    frequencies = spec.theta ** (-np.arange(0, spec.head_dim, 2, dtype=np.float64) / spec.head_dim)
    angles = np.arange(spec.max_positions, dtype=np.float64)[:, None] * frequencies
    return RotaryTable(spec, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
