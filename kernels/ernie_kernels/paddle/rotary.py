"""Rotary embeddings, as Paddle ops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ernie_kernels.api import RotarySpec
from ernie_kernels.paddle.place import Place, Tensor, paddle
from ernie_kernels.rotary import rotary_table


@dataclass(frozen=True, eq=False)
class DeviceRotary:
    """A table of rotary embeddings on a place.

    Attributes:
        spec: what it was made of.
        cosines, sines: float32 ``[positions, head_dim / 2]``.
        pairs_of_axis: for each axis float32 ``[1, head_dim / 2]``, 1 for its pairs and 0 for others; empty if
            there is one axis.
    """

    spec: RotarySpec
    cosines: Tensor
    sines: Tensor
    pairs_of_axis: tuple[Tensor, ...]

    @classmethod
    def make(cls, spec: RotarySpec, place: Place) -> DeviceRotary:
        """Compute the table on the host and bring it to the place."""
        table, axes = rotary_table(spec), np.array([spec.axes])
        pairs = [(axes == axis).astype(np.float32) for axis in range(spec.num_axes)] if spec.axes else []
        cosines, sines = place.upload(table.cosines), place.upload(table.sines)
        return cls(spec, cosines, sines, tuple(map(place.upload, pairs)))

    def angles(self, positions: tuple[Tensor, ...]) -> Angles:
        """Return the angles of positions on one axis, or on each: ``[T]``."""
        if len(positions) == 1:
            gathered = (paddle.gather(table, positions[0]) for table in (self.cosines, self.sines))
        else:
            gathered = (self._gather(table, positions) for table in (self.cosines, self.sines))
        cosines, sines = (each.unsqueeze(1) for each in gathered)
        return Angles(cosines, sines, self.spec.interleaved)

    def _gather(self, table: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
        """Return each pair's number at the position on its own axis; products with 0 and 1 are exact."""
        total = paddle.gather(table, positions[0]) * self.pairs_of_axis[0]
        for places, pairs in zip(positions[1:], self.pairs_of_axis[1:], strict=True):
            total = total + paddle.gather(table, places) * pairs
        return total


@dataclass(frozen=True)
class Angles:
    """The angles of a step's rows: ``cosines`` and ``sines`` float32 ``[T, 1, head_dim / 2]``."""

    cosines: Tensor
    sines: Tensor
    is_interleaved: bool

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate the pairs of ``x`` ``[T, heads, head_dim]``."""
        tokens, heads, width = x.shape
        pairs = (tokens, heads, width // 2, 2) if self.is_interleaved else (tokens, heads, 2, width // 2)
        axis = 3 if self.is_interleaved else 2
        first, second = (half.squeeze(axis) for half in paddle.split(x.reshape(pairs), 2, axis=axis))
        cosines, sines = self.cosines, self.sines
        rotated = (first * cosines - second * sines, second * cosines + first * sines)
        return paddle.stack(rotated, axis=axis).reshape((tokens, heads, width))
