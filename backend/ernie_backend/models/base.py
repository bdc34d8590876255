"""What the engine needs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ernie_backend.config.model_config import ModelConfig
from ernie_kernels.api import CacheScales, DeviceBatch, LayerCache, Logits


class Model(Protocol):
    """A decoder that computes logits for one engine step."""

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        ...

    @property
    def cache_dtype(self) -> str:
        """``CacheSpec.dtype`` of the caches that ``forward`` is given, unless the settings name another."""
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
