"""One file of an image or a video to a ``MediaItem``, as the model's family prepares it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_backend.config.fields import ConfigFields, read_json_object
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.media.families import FAMILIES, MERGE, PATCH, Family, PixelLimits
from ernie_backend.media.images import read_image
from ernie_backend.media.options import ImageOptions, VideoOptions
from ernie_backend.request.media import MediaItem
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_wire.errors import InvalidValue


@dataclass(frozen=True)
class MediaProcessor:
    """Prepares media of a model; any number of threads may use it.

    Attributes:
        family: how the model's family does it.
        mean: what is subtracted from pixels in [0, 1], by channel, when the encoder takes them.
        std: what they are divided by then.
        image: how images are prepared, unless a request says otherwise.
        video: the same for videos; None: the model takes none.
    """

    family: Family
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image: ImageOptions
    video: VideoOptions | None

    @classmethod
    def load(cls, directory: Path, config: ModelConfig, settings: EngineSettings) -> MediaProcessor | None:
        """Read ``preprocessor_config.json``, if there is one; None: a text-only model.

        Raises:
            StartError: a value there is wrong, or not what is computed here.
        """
        family = FAMILIES.get(config.architecture)
        if family is None:
            return None
        path = directory / "preprocessor_config.json"
        fields = ConfigFields(path, read_json_object(path))
        for name, computed in (("patch_size", PATCH), ("merge_size", MERGE), ("temporal_patch_size", 1)):
            if fields.values.get(name, computed) != computed:
                raise fields.error(f"{name} must be {computed}, found {fields.values[name]!r}")
        kwargs = settings.media.mm_processor_kwargs
        limits = _file_limits(fields, family.image) if family.has_own_limits else family.image
        return cls(
            family,
            _channels(fields, "image_mean", family.mean),
            _channels(fields, "image_std", family.std),
            ImageOptions.of(limits, family.largest_image, kwargs),
            VideoOptions.of(family.video, kwargs) if family.video else None,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes."""
        return ("text", "image") if self.video is None else ("text", "image", "video")

    def resolve(self, kind: str, options: Mapping[str, Any]) -> ImageOptions | VideoOptions:
        """Return how a medium is prepared.

        Args:
            kind: ``image`` or ``video``.
            options: of the request and its part (``ernie_wire.media_parts``).

        Raises:
            InvalidValue: options contradict each other, or the model does not take this kind.
        """
        server = {"image": self.image, "video": self.video}.get(kind)
        if server is None:
            raise InvalidValue(f"the model takes no {kind}s; it takes {', '.join(self.modalities)}", "media")
        return server.changed(options)

    def prepare(self, medium: bytes, kind: str, options: Mapping[str, Any]) -> MediaItem:
        """Return a file as the encoder takes it; for the arguments see ``resolve``.

        Raises:
            InvalidValue: it cannot be read, or is not what it is sent as.
        """
        resolved = self.resolve(kind, options)
        image = read_image(medium)
        height, width = self.family.resize(image.height, image.width, resolved.limits)
        patches = self._patches(image, height, width)
        return _item(kind, patches, (1, height // PATCH, width // PATCH), len(patches) // MERGE**2)

    def _patches(self, image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return self.family.order_patches(np.asarray(resized))


def _channels(
    fields: ConfigFields, name: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return three numbers above 0, one for each channel."""
    values = fields.values.get(name, default)
    if not isinstance(values, list | tuple) or len(values) != len(default):
        raise fields.error(f"{name} must be three numbers, found {values!r}")
    red, green, blue = (fields.positive(name, 1, {name: value}) for value in values)
    return red, green, blue


def _file_limits(fields: ConfigFields, defaults: PixelLimits) -> PixelLimits:
    """Return the limits in the file, in transformers' ``size`` or by the names of Paddle."""
    size = fields.values.get("size")
    inside = size if isinstance(size, dict) else {}
    named = {
        "min_pixels": fields.values.get("min_pixels", inside.get("shortest_edge", inside.get("min_pixels"))),
        "max_pixels": fields.values.get("max_pixels", inside.get("longest_edge", inside.get("max_pixels"))),
    }
    given = ConfigFields(fields.path, {name: value for name, value in named.items() if value is not None})
    limits = PixelLimits(
        given.size("min_pixels", defaults.min_pixels), given.size("max_pixels", defaults.max_pixels)
    )
    if limits.min_pixels > limits.max_pixels:
        raise fields.error(f"min_pixels {limits.min_pixels} is above max_pixels {limits.max_pixels}")
    return limits


def _item(kind: str, patches: NDArray[np.uint8], grid: tuple[int, int, int], num_tokens: int) -> MediaItem:
    patches.flags.writeable = False
    digest = hashlib.blake2b(patches.data, digest_size=32, key=f"{kind} {grid}".encode()).digest()
    return MediaItem(kind, patches, grid, num_tokens, digest)
