"""How a KV cache stores the keys and values of a token: the golden model of every backend's cache.

``float32`` keeps the numbers, ``bfloat16`` rounds them. ``int8`` keeps int8 codes and one float32 scale for
each key and each value of a token and kv head: scale = absmax / 127, code = round half to even of x / scale,
clipped to +-127. The scales are dynamic: a vector's numbers depend on that vector alone. A scale that is 0 or
not finite has codes 0, so that the vector reads as zeros or NaN.

``int8`` with static scales (``CacheScales``, FastDeploy's C8) takes one float32 scale for each channel of each
kv head from the checkpoint instead: absmax / 127 over the data that it was calibrated with. Codes are made the
same way, so what is larger than its absmax is cut to it; a channel with scale 0 and a NaN have code 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import CACHE_DTYPES, CacheSpec
from ernie_kernels.formats import bfloat16_to_float32, float32_to_bfloat16

_LEVELS = np.float32(127)


def check_cache_spec(spec: CacheSpec) -> None:
    """Check the dtype and the static scales of a cache.

    Raises:
        ValueError: the dtype is not one of ``CACHE_DTYPES``, or the scales do not fit the cache.
    """
    if spec.dtype not in CACHE_DTYPES:
        raise ValueError(
            f"cache dtype {spec.dtype!r} must be {', '.join(CACHE_DTYPES[:-1])} or {CACHE_DTYPES[-1]}"
        )
    if spec.scales is None:
        return
    if spec.dtype != "int8":
        raise ValueError(f"cache dtype {spec.dtype!r} has no scales; leave them out or choose int8")
    for name, scales in (("keys", spec.scales.keys), ("values", spec.scales.values)):
        shape = (spec.num_kv_heads, spec.head_dim)
        if scales.dtype != np.float32 or scales.shape != shape:
            raise ValueError(
                f"cache scales of {name} are {scales.dtype} {scales.shape}, expected float32 {shape}"
            )
        if not (np.isfinite(scales) & (scales >= 0)).all():
            raise ValueError(f"cache scales of {name} must be finite and not negative")


def quantize_heads(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the int8 codes of ``x`` float32 ``[..., head_dim]`` and their scales ``[..., 1]``."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (np.abs(x).max(axis=-1, keepdims=True) / _LEVELS).astype(np.float32)
        is_usable = (scales > 0) & np.isfinite(scales)
        codes = np.rint(x / np.where(is_usable, scales, np.float32(1)))
        codes = np.where(is_usable, codes.clip(-_LEVELS, _LEVELS), np.float32(0))
    return codes.astype(np.int8), scales


def quantize_channels(x: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the int8 codes of ``x`` float32 ``[..., kv_heads, head_dim]`` for static ``scales``."""
    with np.errstate(over="ignore", invalid="ignore"):
        codes = np.rint(x / np.where(scales > 0, scales, np.float32(1))).clip(-_LEVELS, _LEVELS)
    return np.where((scales > 0) & ~np.isnan(x), codes, np.float32(0)).astype(np.int8)


def through_cache(
    x: NDArray[np.float32], dtype: str, static_scales: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return ``x`` float32 ``[..., kv_heads, head_dim]`` as a cache of ``dtype`` would give it back.

    ``static_scales`` are those of an int8 cache's keys or values; None: they are dynamic.
    """
    if dtype == "float32":
        return x
    if dtype == "bfloat16":
        return bfloat16_to_float32(float32_to_bfloat16(x))
    if static_scales is not None:
        return quantize_channels(x, static_scales).astype(np.float32) * static_scales
    codes, scales = quantize_heads(x)
    with np.errstate(invalid="ignore"):
        return codes.astype(np.float32) * scales
