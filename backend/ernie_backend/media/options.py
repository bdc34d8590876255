"""How a medium is prepared: the operator's settings, which a request may change within their limits.

A maximum above the server's is lowered to it, since memory was planned for that. Of a minimum and a maximum,
the one that is not given follows the other. The types of a request's options are checked where it arrives
(``ernie_wire.media_parts``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ernie_backend.media.families import PixelLimits
from ernie_backend.settings.media_values import ProcessorKwargs
from ernie_wire.errors import InvalidValue

LOW_DETAIL_PIXELS = 512 * 512
"""Of an image with ``detail`` low, as many as OpenAI's have."""
_DEFAULT_FPS = 2.0
_DEFAULT_FRAMES = (16, 180)


class ImageOptions(NamedTuple):
    """How an image is prepared.

    Attributes:
        limits: of its pixels.
        largest: of the server's options: pixels to which a request may raise the maximum.
    """

    limits: PixelLimits
    largest: int

    @classmethod
    def of(cls, limits: PixelLimits, largest: int, kwargs: ProcessorKwargs) -> ImageOptions:
        """Return the server's, from those of the model and the operator's settings."""
        limits = PixelLimits(*_follow(limits, kwargs.image_min_pixels, kwargs.image_max_pixels))
        return cls(limits, kwargs.image_max_pixels or max(largest, limits.max_pixels))

    def changed(self, options: Mapping[str, Any]) -> ImageOptions:
        """Return those of a request; raises InvalidValue."""
        least, most = _follow(self.limits, options.get("min_pixels"), options.get("max_pixels"))
        if options.get("detail") == "low":
            most = min(most, LOW_DETAIL_PIXELS)
            least = options.get("min_pixels", min(least, most))
        return ImageOptions(PixelLimits(*_checked("pixels", least, most, self.largest)), self.largest)


class VideoOptions(NamedTuple):
    """How a video is prepared.

    Attributes:
        limits: of the pixels of a frame.
        fps: frames of a second, unless that makes fewer or more than the limits.
        target_frames: frames of the video, instead of ``fps``.
        min_frames, max_frames: limits of their number.
        sample: which frame of each interval is taken: ``leading``, ``middle`` or ``rand``.
    """

    limits: PixelLimits
    fps: float
    target_frames: int | None
    min_frames: int
    max_frames: int
    sample: str

    @classmethod
    def of(cls, limits: PixelLimits, kwargs: ProcessorKwargs) -> VideoOptions:
        """Return the server's, from those of the model and the operator's settings."""
        return cls(
            PixelLimits(*_follow(limits, kwargs.video_min_pixels, kwargs.video_max_pixels)),
            kwargs.video_fps or _DEFAULT_FPS,
            kwargs.video_target_frames,
            *_follow(_DEFAULT_FRAMES, kwargs.video_min_frames, kwargs.video_max_frames),
            kwargs.video_frames_sample or "leading",
        )

    def changed(self, options: Mapping[str, Any]) -> VideoOptions:
        """Return those of a request.

        Raises:
            InvalidValue: a minimum is above its maximum, or there is more than one number of frames.
        """
        least, most = _follow(self.limits, options.get("min_pixels"), options.get("max_pixels"))
        limits = PixelLimits(*_checked("pixels", least, most, self.limits.max_pixels))
        frames = (self.min_frames, self.max_frames)
        least, most = _follow(frames, options.get("min_frames"), options.get("max_frames"))
        least, most = _checked("frames", least, most, self.max_frames)
        fps, target = self._rate(options)
        if target is not None and not options.get("min_frames", 1) <= target <= most:
            raise InvalidValue(
                f"target_frames is {target}; it must be in [{options.get('min_frames', 1)}, {most}] "
                f"(min_frames, and max_frames or the server's limit)",
                "media",
            )
        return VideoOptions(limits, fps, target, least, most, options.get("frames_sample", self.sample))

    def _rate(self, options: Mapping[str, Any]) -> tuple[float, int | None]:
        """Return the frames of a second and of the video, of which a request may give one."""
        fps, target = options.get("fps", -1), options.get("target_frames", -1)
        if fps > 0 and target > 0:
            message = f"fps is {fps} and target_frames {target}; give one of them, and the other as -1"
            raise InvalidValue(message, "media")
        if target > 0:
            return self.fps, target
        return (fps, None) if fps > 0 else (self.fps, self.target_frames)


def _follow(defaults: tuple[int, int], least: int | None, most: int | None) -> tuple[int, int]:
    """Return a minimum and a maximum; a default that contradicts what is given gives way."""
    high = max(defaults[1], least or 0) if most is None else most
    return min(defaults[0], high) if least is None else least, high


def _checked(name: str, least: int, most: int, limit: int) -> tuple[int, int]:
    """Return the minimum, and the maximum within the server's limit."""
    most = min(most, limit)
    if least > most:
        raise InvalidValue(
            f"min_{name} is {least}, above {most}, the maximum (max_{name}, or the server's limit {limit})",
            "media",
        )
    return least, most
