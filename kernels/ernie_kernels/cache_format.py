"""How a KV cache stores the keys and values of a token: the golden model of every backend's cache.

``float32`` keeps the numbers, ``bfloat16`` rounds them. ``int8`` keeps int8 codes and one float32 scale for
each key and each value of a token and kv head: scale = absmax / 127, code = round half to even of x / scale,
clipped to +-127. The scales are dynamic: a vector's numbers depend on that vector alone. A scale that is 0 or
not finite has codes 0, so that the vector reads as zeros or NaN.

This module must not know how a backend lays a cache out in memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import CACHE_DTYPES
from ernie_kernels.formats import bfloat16_to_float32, float32_to_bfloat16

_LEVELS = np.float32(127)


def check_cache_dtype(dtype: str) -> None:
    """Check that ``dtype`` is one of ``CACHE_DTYPES``.

    Raises:
        ValueError: it is not.
    """
    if dtype not in CACHE_DTYPES:
        raise ValueError(f"cache dtype {dtype!r} must be {', '.join(CACHE_DTYPES[:-1])} or {CACHE_DTYPES[-1]}")


def quantize_heads(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the int8 codes of ``x`` float32 ``[..., head_dim]`` and their scales ``[..., 1]``."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (np.abs(x).max(axis=-1, keepdims=True) / _LEVELS).astype(np.float32)
        is_usable = (scales > 0) & np.isfinite(scales)
        codes = np.rint(x / np.where(is_usable, scales, np.float32(1)))
        codes = np.where(is_usable, codes.clip(-_LEVELS, _LEVELS), np.float32(0))
    return codes.astype(np.int8), scales


def as_stored(x: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return ``x`` float32 ``[..., head_dim]`` as a cache of ``dtype`` would give it back."""
    if dtype == "float32":
        return x
    if dtype == "bfloat16":
        return bfloat16_to_float32(float32_to_bfloat16(x))
    codes, scales = quantize_heads(x)
    with np.errstate(invalid="ignore"):
        return codes.astype(np.float32) * scales
