"""The ops of ``CpuOps`` that only vision towers need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Gelu
from ernie_kernels.batch_checks import check_indices
from ernie_kernels.cpu import _cpu
from ernie_kernels.patches import PatchCacheSpec, PatchGrid, axial_rotary_table, position_samples

Floats = NDArray[np.float32]
_LARGE = 1 << 18
"""Items of a result that is worth huge pages: 1 MB."""


@dataclass(frozen=True)
class AxialTable:
    """``cosines`` and ``sines`` float32 ``[patches of a frame, head_dim / 2]``."""

    cosines: Floats
    sines: Floats


class CpuPatchOps:
    """What ``CpuOps`` does for vision towers."""

    _ops: _cpu.Ops

    def _empty(self, rows: int, columns: int) -> Floats:
        """Return a result float32 ``[rows, columns]`` to fill; a large one in memory of earlier ones."""
        if rows * columns < _LARGE:
            return np.empty((rows, columns), np.float32)
        return self._ops.empty(rows, columns)

    def upload_rows(self, values: Floats) -> Floats:
        """Return the matrix as contiguous float32."""
        return np.ascontiguousarray(values, np.float32)

    def rows(self, x: Floats, begin: int, end: int) -> Floats:
        """Return a view of rows ``begin`` to ``end`` - 1."""
        return x[begin:end]

    def concatenate(self, parts: Sequence[Floats]) -> Floats:
        """Return the rows of all parts, in memory of their own: towers end so, and their outputs are kept."""
        return np.concatenate(parts)

    def merge_rows(self, x: Floats, indices: NDArray[np.int32]) -> Floats:
        """Return rows made of several."""
        check_indices("indices", indices, len(x))
        return x[indices].reshape(len(indices), -1)

    def layer_norm(self, x: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
        """LayerNorm."""
        result = self._empty(len(x), x.shape[-1])
        self._ops.layer_norm(x, weight, bias, epsilon, result)
        return result

    def add_layer_norm(
        self, x: Floats, delta: Floats, weight: Floats, bias: Floats, epsilon: float
    ) -> tuple[Floats, Floats]:
        """Return x + delta and its LayerNorm."""
        residual, result = self._empty(len(x), x.shape[-1]), self._empty(len(x), x.shape[-1])
        self._ops.add_layer_norm(x, delta, weight, bias, epsilon, residual, result)
        return residual, result

    def gelu_mlp(
        self,
        x: Floats,
        up: _cpu.PackedLinear,
        up_bias: Floats,
        down: _cpu.PackedLinear,
        down_bias: Floats,
        gelu: Gelu,
    ) -> Floats:
        """Return down(gelu(up(x) + up_bias)) + down_bias."""
        result = self._empty(len(x), down.outputs)
        self._ops.gelu_mlp(x, up, up_bias, down, down_bias, gelu, result)
        return result

    def add_positions(self, x: Floats, table: Floats, grid: PatchGrid, begin: int) -> Floats:
        """Return patches plus their learned positions."""
        positions = table.reshape(-1, x.shape[1])
        indices, weights = position_samples(grid, math.isqrt(len(positions)))
        places = np.arange(begin, begin + len(x)) % grid.size
        result = x.copy()
        for index, weight in zip(indices[places].T, weights[places].T, strict=True):
            result += positions[index] * weight[:, None]
        return result

    def pack_axial_rotary(self, grid: PatchGrid, head_dim: int, theta: float) -> AxialTable:
        """Make the table of cosines and sines."""
        return AxialTable(*axial_rotary_table(grid, head_dim, theta))

    def allocate_patches(self, spec: PatchCacheSpec) -> _cpu.PatchCache:
        """Allocate queries, keys and values."""
        return _cpu.PatchCache(spec.rows, spec.frame, spec.num_heads, spec.head_dim, spec.dtype)

    def append_patches(self, qkv: Floats, rotary: AxialTable, cache: _cpu.PatchCache, begin: int) -> None:
        """Rotate, store."""
        self._ops.append_patches(qkv, rotary.cosines, rotary.sines, cache, begin)

    def attend_patches(self, cache: _cpu.PatchCache, begin: int, end: int) -> Floats:
        """Return the attention of patches ``begin`` to ``end`` - 1."""
        result = self._empty(max(0, end - begin), cache.num_heads * cache.head_dim)
        self._ops.attend_patches(cache, begin, result)
        return result
