"""The paged KV cache of a layer, as Paddle tensors.

Keys and values are one row per token slot; scatter writes the new tokens in place, gather collects a context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import CacheSpec
from ernie_kernels.cache_format import check_cache_spec
from ernie_kernels.paddle.place import Place, Tensor, paddle

_LEVELS = 127.0
_SMALLEST_DIVISOR = float(np.finfo(np.float32).smallest_subnormal)
"""Stands for the scale 0 of an all-zero head: 0 / it is 0."""


class Rows(Protocol):
    """A float32 head vector for every kv head of every slot, stored in some dtype."""

    def write(self, slots: Tensor, heads: Tensor) -> None:
        """Store ``heads`` ``[T, kv_heads, head_dim]`` in ``slots`` ``[T]``, in place."""
        ...

    def read(self, slots: Tensor) -> Tensor:
        """Return what ``slots`` ``[N]`` hold: float32 ``[N, kv_heads * head_dim]``."""
        ...


@dataclass(frozen=True)
class FloatRows:
    """``numbers`` ``[slots, kv_heads * head_dim]``, rounded to ``dtype``.

    Where the place has no bfloat16, they are rounded values in float32.
    """

    numbers: Tensor
    dtype: str

    def write(self, slots: Tensor, heads: Tensor) -> None:
        """Round and store."""
        rounded = heads.reshape((heads.shape[0], -1)).astype(self.dtype).astype(self.numbers.dtype)
        paddle.scatter_(self.numbers, slots, rounded, overwrite=True)

    def read(self, slots: Tensor) -> Tensor:
        """Gather."""
        return paddle.gather(self.numbers, slots).astype("float32")


@dataclass(frozen=True)
class Int8Rows:
    """``codes`` int32 ``[slots, kv_heads * head_dim / 4]`` and ``scales`` float32 ``[slots, kv_heads]``.

    Four int8 codes share an int32, because an XPU scatters 32-bit integers but not 8-bit ones.
    """

    codes: Tensor
    scales: Tensor

    def write(self, slots: Tensor, heads: Tensor) -> None:
        """Quantize as ``cache_format.quantize_heads`` does, and store."""
        scales = paddle.max(paddle.abs(heads), axis=-1) / paddle.full([1], _LEVELS, "float32")
        quotients = heads / paddle.clip(scales, min=_SMALLEST_DIVISOR).unsqueeze(-1)
        codes = paddle.clip(paddle.round(quotients), -_LEVELS, _LEVELS).astype("int8")
        packed = codes.reshape((heads.shape[0], -1)).view("int32")
        paddle.scatter_(self.codes, slots, packed, overwrite=True)
        paddle.scatter_(self.scales, slots, scales, overwrite=True)

    def read(self, slots: Tensor) -> Tensor:
        """Gather and multiply by the scales."""
        scales = paddle.gather(self.scales, slots)
        codes = paddle.gather(self.codes, slots).view("int8").astype("float32")
        heads = codes.reshape((scales.shape[0], scales.shape[1], -1)) * scales.unsqueeze(-1)
        return heads.reshape((scales.shape[0], -1))


@dataclass(frozen=True)
class StaticInt8Rows:
    """``codes`` as those of ``Int8Rows``; ``scales`` float32 ``[kv_heads * head_dim]`` for all slots."""

    codes: Tensor
    scales: Tensor

    def write(self, slots: Tensor, heads: Tensor) -> None:
        """Quantize as ``cache_format.quantize_channels`` does, and store."""
        rows = heads.reshape((heads.shape[0], -1))
        is_code = paddle.logical_and(self.scales > 0, paddle.equal(rows, rows))
        quotients = rows / paddle.clip(self.scales, min=_SMALLEST_DIVISOR)
        rounded = paddle.clip(paddle.round(quotients), -_LEVELS, _LEVELS)
        codes = paddle.where(is_code, rounded, paddle.zeros_like(rounded)).astype("int8")
        paddle.scatter_(self.codes, slots, codes.view("int32"), overwrite=True)

    def read(self, slots: Tensor) -> Tensor:
        """Gather and multiply by the scales."""
        return paddle.gather(self.codes, slots).view("int8").astype("float32") * self.scales


@dataclass(frozen=True)
class PagedCache:
    """Keys (after rotation) and values of one layer."""

    spec: CacheSpec
    keys: Rows
    values: Rows

    @classmethod
    def allocate(cls, spec: CacheSpec, place: Place) -> PagedCache:
        """Allocate zeros: padding may read any slot, and 0 * NaN would be NaN.

        Raises:
            ValueError: the dtype is unknown, the scales do not fit, or int8 heads do not fill 32-bit words.
        """
        check_cache_spec(spec)
        scales = spec.scales
        keys = _allocate_rows(spec, place, None if scales is None else scales.keys)
        return cls(spec, keys, _allocate_rows(spec, place, None if scales is None else scales.values))

    def append(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write heads ``[T, kv_heads, head_dim]`` into ``slots`` ``[T]``, in place."""
        self.keys.write(slots, keys)
        self.values.write(slots, values)

    def contexts(self, slots: Tensor, num_sequences: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values in ``slots`` ``[N * L]``, float32 ``[N, kv_heads, L, head_dim]``."""
        shape = (num_sequences, -1, self.spec.num_kv_heads, self.spec.head_dim)
        keys, values = (
            rows.read(slots).reshape(shape).transpose((0, 2, 1, 3)) for rows in (self.keys, self.values)
        )
        return keys, values


def _allocate_rows(spec: CacheSpec, place: Place, static_scales: NDArray[np.float32] | None) -> Rows:
    slots, width = spec.num_blocks * spec.block_size, spec.num_kv_heads * spec.head_dim
    if spec.dtype != "int8":
        dtype = spec.dtype if place.has_bfloat16 else "float32"
        return FloatRows(paddle.zeros((slots, width), dtype), spec.dtype)
    if width % 4:
        raise ValueError(
            f"an int8 cache on Paddle needs kv_heads * head_dim to be a multiple of 4; it is {width}"
        )
    codes = paddle.zeros((slots, width // 4), "int32")
    if static_scales is not None:
        return StaticInt8Rows(codes, place.upload(static_scales.reshape(-1)))
    return Int8Rows(codes, paddle.zeros((slots, spec.num_kv_heads), "float32"))
