"""One file of an image or a video to a ``MediaItem``, as the model's family prepares it."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_backend.config.fields import ConfigFields, read_json_object
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.media.families import FAMILIES, MERGE, PATCH, TEMPORAL_MERGE, Family, PixelLimits
from ernie_backend.media.images import ImageFile
from ernie_backend.media.options import ImageOptions, VideoOptions
from ernie_backend.media.sampling import frame_indices
from ernie_backend.media.timestamps import draw_time
from ernie_backend.media.videos import Video
from ernie_backend.request.media import RAISE_CONTEXT, MediaItem
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_wire.errors import ContextLengthExceeded, InvalidValue

_USUAL_IMAGE, _SMALL_FRAME = (1080, 1920), (360, 640)
"""Heights and widths: a context that holds no such image or video is worth a notice."""
LARGE_PIXELS = 1 << 24
"""Only one image above this is decoded at a time: the largest takes 0.8 to 1.4 GiB for a moment."""


@dataclass(frozen=True)
class MediaProcessor:
    """Prepares media of a model; any number of threads may use it.

    Attributes:
        family: how the model's family does it.
        mean: what is subtracted from pixels in [0, 1], by channel, when the encoder takes them.
        std: what they are divided by then.
        image: how images are prepared, unless a request says otherwise.
        video: the same for videos; None: the model takes none.
        max_tokens: of the context.
        large_image: is held by the thread that decodes an image above ``LARGE_PIXELS``.
    """

    family: Family
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image: ImageOptions
    video: VideoOptions | None
    max_tokens: int
    large_image: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, directory: Path, config: ModelConfig, settings: EngineSettings) -> MediaProcessor | None:
        """Read ``preprocessor_config.json``, or what transformers 5 has instead; None: a text-only model.

        Raises:
            StartError: a value there is wrong, or not what is computed here.
        """
        family = FAMILIES.get(config.architecture)
        if family is None:
            return None
        fields = _preprocessor_fields(directory)
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
            settings.loading.max_model_len,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes."""
        return ("text", "image") if self.video is None else ("text", "image", "video")

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know at the start."""
        lines = []
        if self.video is not None and find_spec("av") is None:
            lines.append(
                "videos are refused: PyAV, which reads them, is missing; pip install 'ernie-triton[video]'"
            )
        if too_large := [words for words, num_tokens in self._usual() if num_tokens > self.max_tokens]:
            lines.append(
                f"max_model_len {self.max_tokens} cannot hold {' or '.join(too_large)}; raise --max-model-len, "
                "or let --mm-processor-kwargs lower image_max_pixels, video_min_frames and the like"
            )
        return tuple(lines)

    def _usual(self) -> Iterator[tuple[str, int]]:
        """Yield media that users send, in words, and their tokens, unless a request says otherwise."""
        grid = self._resized(1, *_USUAL_IMAGE, self.image.limits)
        num_tokens = _num_tokens("image", grid)
        yield f"an image of 1920 x 1080 pixels ({num_tokens} tokens)", num_tokens
        if self.video is not None:
            num_frames = self.video.target_frames or self.video.min_frames
            grid = self._resized(num_frames + num_frames % TEMPORAL_MERGE, *_SMALL_FRAME, self.video.limits)
            num_tokens = _num_tokens("video", grid)
            yield f"a video of {num_frames} frames of 640 x 360 pixels ({num_tokens} tokens)", num_tokens

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
            ContextLengthExceeded: it has more tokens than the context, known before it is decoded as a whole.
        """
        resolved = self.resolve(kind, options)
        if isinstance(resolved, VideoOptions):
            return self._prepare_video(medium, resolved)
        return self._prepare_image(ImageFile(medium), resolved)

    def _prepare_image(self, file: ImageFile, options: ImageOptions) -> MediaItem:
        self._grid("image", 1, file, options.limits)
        is_large = file.width * file.height > LARGE_PIXELS
        with self.large_image if is_large else nullcontext():
            image = file.read()
            grid = self._grid("image", 1, image, options.limits)
            return _item("image", self._patches(image, grid)[np.newaxis], grid)

    def _prepare_video(self, medium: bytes, options: VideoOptions) -> MediaItem:
        video = Video(medium)
        wanted = frame_indices(video.num_frames, video.rate, options)
        num_frames = len(wanted) + len(wanted) % TEMPORAL_MERGE
        frames = video.read(wanted)
        first = next(frames)
        grid = self._grid("video", num_frames, first.image, options.limits)
        patches = np.empty((num_frames, grid[1] * grid[2], 3 * PATCH**2), np.uint8)
        for frame in chain([first], frames):
            draw_time(frame.image, frame.index / video.rate)
            patches[frame.place] = self._patches(frame.image, grid)
        patches[len(wanted) :] = patches[len(wanted) - 1]
        return _item("video", patches, grid)

    def _grid(
        self, kind: str, num_frames: int, image: Image.Image | ImageFile, limits: PixelLimits
    ) -> tuple[int, int, int]:
        """Return the patches of a medium in time, height and width, which must fit into the context."""
        grid = self._resized(num_frames, image.height, image.width, limits)
        num_tokens = _num_tokens(kind, grid)
        if num_tokens > self.max_tokens:
            frames = f"{num_frames} frames of " if kind == "video" else ""
            smaller = "max_frames or max_pixels" if kind == "video" else "max_pixels"
            size = f"{frames}{grid[2] * PATCH} x {grid[1] * PATCH} pixels"
            note = f"The {kind} takes {num_tokens}, as {size}; lower {smaller}, {RAISE_CONTEXT}."
            raise ContextLengthExceeded.of(
                self.max_tokens, num_tokens, 0, "messages", is_estimate=True, note=note
            )
        return grid

    def _resized(self, num_frames: int, height: int, width: int, limits: PixelLimits) -> tuple[int, int, int]:
        height, width = self.family.resize(height, width, limits)
        return num_frames, height // PATCH, width // PATCH

    def _patches(self, image: Image.Image, grid: tuple[int, int, int]) -> NDArray[np.uint8]:
        resized = image.resize((grid[2] * PATCH, grid[1] * PATCH), Image.Resampling.BICUBIC)
        return self.family.order_patches(np.asarray(resized))


def _preprocessor_fields(directory: Path) -> ConfigFields:
    """Return what a model's files say about images; transformers 5 writes it into ``processor_config.json``."""
    path = directory / "preprocessor_config.json"
    if path.is_file():
        return ConfigFields(path, read_json_object(path))
    path = directory / "processor_config.json"
    inside = read_json_object(path).get("image_processor")
    return ConfigFields(path, inside if isinstance(inside, dict) else {})


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


def _num_tokens(kind: str, grid: tuple[int, int, int]) -> int:
    return math.prod(grid) // (MERGE**2 * (TEMPORAL_MERGE if kind == "video" else 1))


def _item(kind: str, patches: NDArray[np.uint8], grid: tuple[int, int, int]) -> MediaItem:
    """Return the item of patches ``[frames, patches of a frame, 588]``."""
    patches = patches.reshape(-1, patches.shape[-1])
    patches.flags.writeable = False
    digest = hashlib.blake2b(patches.data, digest_size=32, key=f"{kind} {grid}".encode()).digest()
    return MediaItem(kind, patches, grid, _num_tokens(kind, grid), digest)
