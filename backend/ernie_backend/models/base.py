"""What the engine needs of a model, and how it is to be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.weights.sharding import Shard
from ernie_kernels.api import CacheScales, DeviceBatch, LayerCache, Logits
from ernie_kernels.formats import ActivationType


@dataclass(frozen=True)
class LoadSettings:
    """How a model is loaded.

    Attributes:
        dtype: ``float32`` or ``bfloat16``: unquantized weights, and keys and values in the cache.
        quantization: None, ``wint8``, ``wint4`` or ``w4a8``.
        activation: how Linears see their inputs, where it fits their weights.
        max_positions: length of the rotary table: the longest context that will be served, in tokens.
        is_dummy: random weights instead of the checkpoint's.
        weight_cache: directory that keeps quantized weights for the next start; None: they are not kept.
        shard: which part of the model is loaded; default: all of it.
    """

    dtype: str
    quantization: str | None
    activation: ActivationType
    max_positions: int
    is_dummy: bool = False
    weight_cache: Path | None = None
    shard: Shard = field(default_factory=Shard)


class Model(Protocol):
    """A decoder that computes logits for one engine step."""

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        ...

    @property
    def cache_dtype(self) -> str:
        """``CacheSpec.dtype`` of the caches that ``forward`` is given, unless another was asked for."""
        ...

    @property
    def cache_scales(self) -> Sequence[CacheScales | None]:
        """Static scales of an int8 cache, layer by layer; None where the checkpoint brings none."""
        ...

    def forward(self, batch: DeviceBatch, caches: Sequence[LayerCache]) -> Logits:
        """Compute one step: append to ``caches`` (one per layer), return the logits of the batch's logit rows.

        Returns:
            float32 ``[R, V]`` on the host.
        """
        ...
