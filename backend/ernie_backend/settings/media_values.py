"""Settings of images and videos that are given as JSON objects; a key that is not given is None."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ernie_backend.settings.kinds import Choice, Integer, JsonValues, Kind, Number, OrNone

_PIXELS = Integer(28 * 28, 1 << 28)
_FRAMES = Integer(1, 4096)
_UNSET = ("-1", "-1.0")


def _key(kind: Kind, default: Any = None) -> Any:  # noqa: ANN401 - the type of the field
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class ProcessorKwargs(JsonValues):
    """How images and videos are prepared: FastDeploy's keys.

    Attributes:
        spatial_conv_size, temporal_conv_size: patches of a token on each axis, which the models fix.
        image_min_pixels, image_max_pixels: limits of an image after it was resized.
        video_min_pixels, video_max_pixels: limits of a frame.
        video_min_frames, video_max_frames: limits of the number of frames.
        video_fps: frames of a second.
        video_target_frames: number of frames of a video, instead of ``video_fps``.
        video_frames_sample: which frame of each interval is taken.
    """

    spatial_conv_size: int | None = _key(Integer(2, 2))
    temporal_conv_size: int | None = _key(Integer(2, 2))
    image_min_pixels: int | None = _key(_PIXELS)
    image_max_pixels: int | None = _key(_PIXELS)
    video_min_pixels: int | None = _key(_PIXELS)
    video_max_pixels: int | None = _key(_PIXELS)
    video_min_frames: int | None = _key(_FRAMES)
    video_max_frames: int | None = _key(_FRAMES)
    video_fps: float | None = _key(OrNone(Number(high=1000), _UNSET))
    video_target_frames: int | None = _key(OrNone(_FRAMES, _UNSET))
    video_frames_sample: str | None = _key(Choice(("leading", "middle", "rand")))

    def __post_init__(self) -> None:
        for name in ("image_{}_pixels", "video_{}_pixels", "video_{}_frames"):
            least, most = name.format("min"), name.format("max")
            if (getattr(self, least) or 0) > (getattr(self, most) or float("inf")):
                raise ValueError(f"has {least} {getattr(self, least)} above {most} {getattr(self, most)}")
        if self.video_fps is not None and self.video_target_frames is not None:
            raise ValueError("has video_fps and video_target_frames; give one of them, and the other as -1")


@dataclass(frozen=True)
class PromptLimits(JsonValues):
    """How many images and videos a request may have; ``audio`` is FastDeploy's, and no model here takes it."""

    image: int = _key(Integer(0, 1024), 1)
    video: int = _key(Integer(0, 1024), 1)
    audio: int = _key(Integer(0, 1024), 1)
