"""FastDeploy's paged cache, and the call of ``block_attn``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import CacheSpec, UnsupportedError
from ernie_kernels.cache_format import check_cache_spec
from ernie_kernels.fastdeploy.library import Library
from ernie_kernels.fastdeploy.limits import why_refused
from ernie_kernels.fastdeploy.rotary import BlockRotary, style_arguments
from ernie_kernels.fastdeploy.upload import FastDeployStep
from ernie_kernels.formats import float32_to_bfloat16
from ernie_kernels.needs import Needs
from ernie_kernels.paddle.place import Place, Tensor, paddle

_LEVELS = np.float32(127)


@dataclass(frozen=True)
class BlockCache:
    """Keys (after rotation) and values of one layer.

    Attributes:
        spec: what was asked for.
        keys, values: bfloat16 or int8 ``[blocks, kv_heads, block_size, head_dim]``.
        scales: the arguments of ``block_attn`` for an int8 cache.
    """

    spec: CacheSpec
    keys: Tensor
    values: Tensor
    scales: dict[str, Tensor | None]

    @classmethod
    def allocate(cls, spec: CacheSpec, place: Place, *, is_interleaved: bool) -> BlockCache:
        """Allocate zeros for keys of which rotary pairs are (2i, 2i + 1), or (i, i + head_dim / 2).

        Raises:
            UnsupportedError: FastDeploy's kernels have no such cache.
            ValueError: the dtype is unknown, or the scales do not fit.
        """
        check_cache_spec(spec)
        reason = why_refused(Needs(spec.block_size, spec.dtype, spec.scales is not None, is_interleaved))
        if reason is not None:
            raise UnsupportedError(reason)
        shape = (spec.num_blocks, spec.num_kv_heads, spec.block_size, spec.head_dim)
        return cls(
            spec,
            paddle.zeros(shape, spec.dtype),
            paddle.zeros(shape, spec.dtype),
            _scale_arguments(spec, place),
        )


def _scale_arguments(spec: CacheSpec, place: Place) -> dict[str, Tensor | None]:
    """Return the scales of each channel: bfloat16 127 / absmax to quantize, float32 absmax to read."""
    if spec.scales is None:
        return dict.fromkeys(("k_scales", "v_scales", "k_scales_inv", "v_scales_inv"))
    arguments: dict[str, Tensor | None] = {}
    for name, scales in (("k_scales", spec.scales.keys), ("v_scales", spec.scales.values)):
        flat: NDArray[np.float32] = scales.reshape(-1)
        factors = np.divide(np.float32(1), flat, out=np.zeros_like(flat), where=flat > 0)
        arguments[name] = place.upload_bfloat16(float32_to_bfloat16(factors))
        arguments[f"{name}_inv"] = place.upload(flat * _LEVELS)
    return arguments


def attend(
    library: Library, qkv: Tensor, rotary: BlockRotary, cache: BlockCache, step: FastDeployStep
) -> Tensor:
    """Rotate, append to the cache, attend: ``[T, heads * head_dim]`` in the order of the step's rows."""
    arguments: dict[str, Any] = {
        "qkv": qkv,
        "key_cache": cache.keys,
        "value_cache": cache.values,
        "rotary_embs": rotary.of_step(step),
        **step.attention,
        **cache.scales,
        **dict.fromkeys(("k_zeros", "v_zeros", "shift", "smooth")),
        **dict.fromkeys(("kv_signal_data_cpu", "cachekv_signal_thread_cpu")),
        **style_arguments(rotary.spec, library.lineage),
    }
    return first(library.block_attn(**arguments))


def first(result: Any) -> Tensor:  # noqa: ANN401 - an op's result
    """Return the tensor of an op that returns one, alone or in a list."""
    return result[0] if isinstance(result, list | tuple) else result
