"""Processors of media, and files of images and videos."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.settings.engine_settings import EngineSettings
from support.paths import DATA

ARCHITECTURES = {
    "vl_moe": "Ernie4_5_VLMoeForConditionalGeneration",
    "paddleocr_vl": "PaddleOCRVLForConditionalGeneration",
}
_IS_EXACT = int(PIL.__version__.partition(".")[0]) >= 13  # it made the goldens; earlier ones round otherwise
_LEVEL = 1 / 255 / 0.26
PIXEL_TOLERANCE = 1e-6 if _IS_EXACT else 2 * _LEVEL
"""Of a normalized pixel of a resized image: none, or two levels of 256."""
ROW_TOLERANCE = 2e-4 if _IS_EXACT else 40 * _LEVEL
"""Of the sum over a patch, in which one of 25 pixels is a level off."""
_ONE = 1 << 16
_TURNED = {
    90: (0, _ONE, 0, -_ONE, 0, 0),
    180: (-_ONE, 0, 0, 0, -_ONE, 0),
    270: (0, -_ONE, 0, _ONE, 0, 0),
}
"""Clockwise angle -> the first two rows of an MP4 track's matrix."""


def processor(family: str = "vl_moe", directory: Path | None = None, **settings: Any) -> MediaProcessor:
    """Return the processor of a family, with preprocessor_config.json of its checkpoint or a directory."""
    config = replace(ModelConfig.from_directory(DATA / "dense"), architecture=ARCHITECTURES[family])
    directory = DATA / family if directory is None else directory
    settings.setdefault("max_model_len", 131072)
    loaded = MediaProcessor.load(directory, config, EngineSettings(directory).replaced(**settings))
    assert loaded is not None
    return loaded


def image_file(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def plain_image(width: int, height: int, mode: str = "RGB", color: Any = 128) -> Image.Image:
    """Return an image of one color."""
    return Image.new(mode, (width, height), (color,) * 3 if mode == "RGB" and isinstance(color, int) else color)


def grey_frames(count: int, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    """Return frames of one grey each, four levels brighter from one to the next."""
    return [np.full((height, width, 3), index * 4 % 256, np.uint8) for index in range(count)]


def video_file(
    frames: Sequence[NDArray[np.uint8]],
    container: str = "mp4",
    codec: str = "libx264",
    rate: int = 30,
    times: Iterable[int] | None = None,
    **options: str,
) -> bytes:
    """Return the file of a video.

    Args:
        frames: its frames, of an even width and height.
        container: its format.
        codec: encodes it.
        rate: frames of a second.
        times: when each frame is shown, in units of ``1 / rate`` seconds; None: one after another.
        options: of the encoder.
    """
    buffer = BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = time
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def audio_file(container: str = "mp4", codec: str = "aac", *, has_cover: bool = False) -> bytes:
    """Return a file of a tenth of a second of silence, maybe with the picture of a cover."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=44100)
        if has_cover:
            cover = output.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            output.mux(cover.encode(av.VideoFrame.from_ndarray(grey_frames(1)[0], format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def turned(mp4: bytes, angle: int) -> bytes:
    """Return a video whose file says that it is shown turned clockwise by an angle."""
    place = mp4.index(b"tkhd") + 44
    matrix = struct.pack(">9i", *_TURNED[angle], 0, 0, 1 << 30)
    return mp4[:place] + matrix + mp4[place + len(matrix) :]
