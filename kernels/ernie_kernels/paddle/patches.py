"""What a vision tower needs in addition to Linears, as Paddle ops: gelus, rotated patches, their attention."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ernie_kernels.api import Gelu
from ernie_kernels.paddle.place import Place, Tensor, paddle
from ernie_kernels.patches import PatchCacheSpec, PatchGrid, axial_rotary_table, position_samples

_MOST_SCORES = 1 << 26
"""Scores that are on the device at a time: 256 MiB."""


@dataclass(frozen=True)
class AxialTable:
    """``cosines`` and ``sines`` float32 ``[patches of a frame, head_dim / 2]``."""

    cosines: Tensor
    sines: Tensor

    @classmethod
    def make(cls, grid: PatchGrid, head_dim: int, theta: float, place: Place) -> AxialTable:
        """Compute the table on the host and bring it to the place."""
        cosines, sines = axial_rotary_table(grid, head_dim, theta)
        return cls(place.upload(cosines), place.upload(sines))

    def rotate(self, x: Tensor, places: Tensor) -> Tensor:
        """Rotate the pairs (i, i + head_dim / 2) of ``x [R, heads, head_dim]`` by the angles of ``places``."""
        cosines = paddle.gather(self.cosines, places).unsqueeze(1)
        sines = paddle.gather(self.sines, places).unsqueeze(1)
        first, second = paddle.split(x, 2, axis=-1)
        rotated = (first * cosines - second * sines, second * cosines + first * sines)
        return paddle.concat(rotated, axis=-1)


@dataclass
class PatchParts:
    """One layer's patches as they were appended: tensors ``[heads, R, head_dim]``, R rows each, end to end."""

    spec: PatchCacheSpec
    place: Place
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def append(self, qkv: Tensor, table: AxialTable, begin: int) -> None:
        """Rotate and keep the patches ``begin`` and on; those of the layer before are forgotten at 0."""
        spec, count = self.spec, qkv.shape[0]
        spec.check_rows(begin, begin + count)
        if begin == 0:
            self.queries, self.keys, self.values = [], [], []
        if begin != sum(part.shape[1] for part in self.keys):
            raise ValueError(f"patches are appended in their order; {begin} is not the next")
        places = self.place.upload((np.arange(begin, begin + count) % spec.frame).astype(np.int32))
        heads = qkv.astype("float32").reshape((count, 3 * spec.num_heads, spec.head_dim))
        parts = paddle.split(heads, 3, axis=1)
        rotated = (table.rotate(parts[0], places), table.rotate(parts[1], places), parts[2])
        for kept, part in zip((self.queries, self.keys, self.values), rotated, strict=True):
            kept.append(self._rounded(part.transpose((1, 0, 2))))

    def attend(self, begin: int, end: int) -> Tensor:
        """Return the attention of patches ``begin`` to ``end`` - 1: ``[end - begin, heads * head_dim]``."""
        spec = self.spec
        spec.check_rows(begin, end)
        if len(self.keys) > 1:
            for kept in (self.queries, self.keys, self.values):
                kept[:] = [paddle.concat(kept, axis=1)]
        count = max(1, _MOST_SCORES // (spec.num_heads * spec.frame))
        results = []
        while begin < end:
            frame = begin // spec.frame
            stop = min(end, begin + count, (frame + 1) * spec.frame)
            results.append(self._attend_frame(begin, stop, frame * spec.frame))
            begin = stop
        return paddle.concat(results).astype(self.place.dtype)

    def _attend_frame(self, begin: int, end: int, first: int) -> Tensor:
        """Attend the patches of one frame, which begins at ``first``."""
        spec, frame = self.spec, slice(first, first + self.spec.frame)
        queries = self.queries[0][:, begin:end]
        keys, values = self.keys[0][:, frame], self.values[0][:, frame]
        scores = paddle.matmul(queries, keys, transpose_y=True).astype("float32") * spec.head_dim**-0.5
        weights = paddle.exp(scores - paddle.max(scores, axis=-1, keepdim=True))
        total = paddle.sum(weights, axis=-1, keepdim=True)
        attended = paddle.matmul(self._rounded(weights), values).astype("float32") / total
        return attended.transpose((1, 0, 2)).reshape((end - begin, spec.num_heads * spec.head_dim))

    def _rounded(self, x: Tensor) -> Tensor:
        if self.spec.dtype == "float32":
            return x
        rounded = x.astype("bfloat16")
        return rounded if self.place.has_bfloat16 else rounded.astype("float32")


def gelu(values: Tensor, kind: Gelu) -> Tensor:
    """Return the gelu of ``values``, or one of its approximations, computed in float32.

    Paddle's XPU kernel of gelu ignores ``approximate``, hence the composition.
    """
    x = values.astype("float32")
    if kind == "erf":
        result = paddle.nn.functional.gelu(x)
    elif kind == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        result = x * 0.5 * (paddle.tanh(inner) + 1.0)
    else:
        result = x * paddle.nn.functional.sigmoid(x * 1.702)
    return result.astype(values.dtype)


def add_positions(x: Tensor, table: Tensor, grid: PatchGrid, begin: int, place: Place) -> Tensor:
    """Return patches plus their learned positions; ``table`` is ``[side * side * width]``."""
    count, width = x.shape
    positions = table.reshape((-1, width))
    indices, weights = position_samples(grid, math.isqrt(positions.shape[0]))
    places = np.arange(begin, begin + count) % grid.size
    corners = paddle.gather(positions, place.upload(indices[places].reshape(-1))).astype("float32")
    weighted = corners.reshape((count, 4, width)) * place.upload(weights[places][:, :, None])
    return (x.astype("float32") + paddle.sum(weighted, axis=1)).astype(x.dtype)
