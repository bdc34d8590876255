"""Tables of rotary embeddings (RoFormer), which every backend makes alike."""

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

    def angles(self, positions: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the cosines and sines of positions ``[T]`` or ``[A, T]``: each ``[T, head_dim / 2]``."""
        if positions.ndim == 1:
            return self.cosines[positions], self.sines[positions]
        places = positions[np.array(self.spec.axes or (0,))].T, np.arange(self.spec.head_dim // 2)
        return self.cosines[places], self.sines[places]


def sequence_tables_shape(spec: RotarySpec, sequences: int) -> tuple[int, ...]:
    """Return the shape of FastDeploy's tables for a step of that many sequences, rounded up to eights.

    ``[S, 2, 1, max_positions, 1, width]`` float32: cosines and sines of every place of every sequence;
    ``width`` is head_dim / 2, or head_dim for pairs (i, i + head_dim / 2).
    """
    width = spec.head_dim // 2 if spec.interleaved else spec.head_dim
    return -(-sequences // 8) * 8, 2, 1, spec.max_positions, 1, width


def rotary_table(spec: RotarySpec) -> RotaryTable:
    """Make the table of the angles that ``RotarySpec`` says.

    Raises:
        ValueError: ``head_dim`` is odd, a size or ``compression_ratio`` is not positive, or there is not one
            axis for each pair.
    """
    if spec.axes and (len(spec.axes) != spec.head_dim // 2 or min(spec.axes) < 0):
        raise ValueError(f"rotary axes {spec.axes} must be head_dim / 2 = {spec.head_dim // 2} axes from 0 on")
    if spec.head_dim <= 0 or spec.head_dim % 2 or spec.max_positions <= 0 or spec.compression_ratio <= 0:
        raise ValueError(
            f"rotary head_dim {spec.head_dim} must be even and positive, "
            f"max_positions {spec.max_positions} and compression_ratio {spec.compression_ratio} positive"
        )
    frequencies = spec.theta ** (-np.arange(0, spec.head_dim, 2, dtype=np.float64) / spec.head_dim)
    positions = np.arange(spec.max_positions, dtype=np.float64) / spec.compression_ratio
    angles = positions[:, None] * frequencies
    return RotaryTable(spec, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
