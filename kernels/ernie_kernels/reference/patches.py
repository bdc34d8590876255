"""What a vision tower needs in addition to Linears: norms, gelus, rotated patches and their attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Gelu
from ernie_kernels.formats import round_to_bfloat16
from ernie_kernels.patches import PatchCacheSpec

Floats = NDArray[np.float32]
_ERF = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class AxialTable:
    """``cosines`` and ``sines`` float32 ``[patches of a frame, head_dim / 2]``."""

    cosines: Floats
    sines: Floats


class ReferencePatches:
    """Queries, keys and values ``[rows, heads, head_dim]`` of one layer's patches."""

    def __init__(self, spec: PatchCacheSpec) -> None:
        self.spec = spec
        shape = (spec.rows, spec.num_heads, spec.head_dim)
        self.queries, self.keys, self.values = (np.zeros(shape, np.float32) for _ in range(3))

    def append(self, qkv: Floats, table: AxialTable, begin: int) -> None:
        """Rotate and store the patches ``begin`` and on."""
        spec, end = self.spec, begin + len(qkv)
        spec.check_rows(begin, end)
        queries, keys, values = np.moveaxis(qkv.reshape(len(qkv), 3, spec.num_heads, spec.head_dim), 1, 0)
        places = np.arange(begin, end) % spec.frame
        self.queries[begin:end] = self._rounded(rotate_halves(queries, table, places))
        self.keys[begin:end] = self._rounded(rotate_halves(keys, table, places))
        self.values[begin:end] = self._rounded(values)

    def attend(self, begin: int, end: int) -> Floats:
        """Return softmax(q k / sqrt(head_dim)) v within each frame: ``[end - begin, heads * head_dim]``."""
        spec = self.spec
        spec.check_rows(begin, end)
        attended = [self._attend_row(row) for row in range(begin, end)]
        return np.stack(attended).reshape(end - begin, spec.num_heads * spec.head_dim)

    def _attend_row(self, row: int) -> Floats:
        frame = slice(row // self.spec.frame * self.spec.frame, (row // self.spec.frame + 1) * self.spec.frame)
        scores = np.einsum("hd,khd->hk", self.queries[row], self.keys[frame])
        scores *= np.float32(self.spec.head_dim**-0.5)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        total = weights.sum(axis=1, keepdims=True)
        attended: Floats = np.einsum("hk,khd->hd", self._rounded(weights), self.values[frame]) / total
        return attended

    def _rounded(self, x: Floats) -> Floats:
        return round_to_bfloat16(x) if self.spec.dtype == "bfloat16" else x


def rotate_halves(x: Floats, table: AxialTable, places: NDArray[np.int64]) -> Floats:
    """Rotate the pairs (i, i + head_dim / 2) of ``x [R, heads, head_dim]`` by the angles of ``places [R]``."""
    cosines, sines = table.cosines[places][:, None], table.sines[places][:, None]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def layer_norm(x: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
    """Return (x - mean) / sqrt(variance + epsilon) * weight + bias, ``[T, K]``."""
    centered = x - np.mean(x, axis=1, keepdims=True)
    variance = np.mean(np.square(centered), axis=1, keepdims=True)
    normed: Floats = centered / np.sqrt(variance + np.float32(epsilon)) * weight + bias
    return normed


def gelu(x: Floats, kind: Gelu) -> Floats:
    """Return the gelu of x, or one of its approximations (Hendrycks and Gimpel 2016)."""
    with np.errstate(over="ignore"):  # infinite in a tanh or an exp: the gelu is 0 or x there
        if kind == "erf":
            factor = (1 + _ERF(x * math.sqrt(0.5))) / 2
        elif kind == "tanh":
            factor = (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        else:
            factor = 1 / (1 + np.exp(-1.702 * x))
    activated: Floats = x * factor.astype(np.float32)
    return activated
