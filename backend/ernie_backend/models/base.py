"""What the engine needs of a model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from ernie_backend.config.model_config import ModelConfig
from ernie_kernels.api import Array, CacheScales, DeviceBatch, LayerCache
from ernie_kernels.sampling import HeadOutput


class VisionTower(Protocol):
    """The encoder of images and videos, with what brings its results to the decoder's width H."""

    def encode(self, pixels: Array, grid: tuple[int, int, int]) -> Generator[None, None, Array]:
        """Encode one image or video, in pieces: ``result = yield from tower.encode(...)``.

        Yields after every bounded piece of work, about 1,024 patches through half a layer, so that a caller
        can do something else between two. The result does not depend on what happens there.

        Args:
            pixels: ``[frames * height * width, 3 * P * P]``, normalized patches, frame by frame, each
                channel by channel; in the order that the model's preprocessor writes.
            grid: frames, and the height and width of each in patches; height and width are even.

        Returns:
            ``[tokens, H]``, frame by frame (pair by pair where the model joins frames), tokens in raster order.

        Raises:
            ValueError: the model cannot encode such a grid.
        """
        ...


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

    @property
    def vision(self) -> VisionTower | None:
        """The encoder of images; None: the model knows text only."""
        ...

    def forward(
        self, batch: DeviceBatch, caches: Sequence[LayerCache], media: Array | None = None
    ) -> HeadOutput:
        """Compute one step: append to ``caches`` (one per layer), return logits or tokens of the logit rows.

        Args:
            batch: the step's tokens.
            caches: one per layer.
            media: ``[M, H]``, the embeddings of the batch's ``media_rows``; None: it has no such rows.
        """
        ...
