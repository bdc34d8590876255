"""The file of an image to RGB pixels: of known formats by their content, its size limited before it is decoded.

What Pillow raises about a file depends on its plugin, down to IndexError; to a client it is all the same.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from typing import IO

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ernie_wire.errors import InvalidValue

FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
"""What is accepted; importing a plugin is what makes Pillow know it."""
MAX_IMAGE_PIXELS = 90_000_000
"""About where Pillow begins to suspect a decompression bomb: 343 MiB in memory."""
MAX_JPEG_SCANS = 100
"""A progressive JPEG has about ten; each costs as much as decoding all of the image, and next to no bytes."""
MAX_SCANNED_PIXELS = 12 * MAX_IMAGE_PIXELS
"""Pixels of a JPEG times its scans: some seconds."""
MAX_TILE_PIXELS = 1 << 24
"""Of a TIFF: a tile is decoded as a whole, however small the image is."""
_MAX_PNG_CHUNKS = 100_000
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MAX_JPEG_SEGMENTS = 10_000
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""Begins a segment with a length; the others are data, or stand alone."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what turns the image upright."""
_OTHERS = (
    *((4, b"ftyp" + brand, "a HEIC or AVIF image") for brand in (b"hei", b"hev", b"mif", b"avi")),
    (4, b"ftyp", "a video or audio (MP4, MOV)"),
    (0, b"\x1aE\xdf\xa3", "a video or audio (WebM, Matroska)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"FLV", "a video (FLV)"),
    (0, b"OggS", "a video or audio (Ogg)"),
    (0, b"ID3", "audio (MP3)"),
    (8, b"WAVE", "audio (WAV)"),
    (0, b"fLaC", "audio (FLAC)"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"<", "a text such as HTML or XML"),
)
"""Place, first bytes and name of what is sent by mistake."""
_UNKNOWN = "of an unknown format"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BASE64_CHARACTERS = 24
"""As many as the first bytes have that say what a file is."""

Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS // 2  # it refuses what has more than twice as many, and warns before
for _category in (UserWarning, Image.DecompressionBombWarning):  # of broken metadata; of large images
    warnings.filterwarnings("ignore", category=_category, module="PIL")
_load_tags = TiffImagePlugin.ImageFileDirectory_v2.load


class _WithinItsSize:
    """A file that can be read no further when as many bytes as it has were read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        begin = file.tell()
        self._num_left = file.seek(0, SEEK_END)
        file.seek(begin)

    def read(self, size: int) -> bytes:
        """Read; raise OSError at the limit."""
        self._num_left -= size
        if self._num_left < 0:
            raise OSError("the tags are larger than the file")
        return self._file.read(size)


def _load_bounded_tags(directory: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> None:
    """Read tags of TIFF or EXIF. Each may name the same bytes, of which earlier Pillow than 13 makes copies."""
    _load_tags(directory, _WithinItsSize(file))  # type: ignore[arg-type]


TiffImagePlugin.ImageFileDirectory_v2.load = _load_bounded_tags  # type: ignore[method-assign,assignment]


class ImageFile:
    """The file of an image, of which only the header is read.

    Args:
        medium: the file.

    Attributes:
        width, height: in pixels, before it is turned upright.

    Raises:
        InvalidValue: it is not an image of a known format, or too large.
    """

    def __init__(self, medium: bytes) -> None:
        _check_chunks(medium)
        num_scans = _num_scans(medium) if medium.startswith(_JPEG_START) else 0
        if num_scans > MAX_JPEG_SCANS:
            message = f"the JPEG has more than {MAX_JPEG_SCANS} scans; save it as a baseline JPEG"
            raise InvalidValue(message, "media")
        with _errors_of_the_file(medium):
            self._image = Image.open(BytesIO(medium), formats=FORMATS)
            _check_tile(self._image)
        self._medium = medium
        self.width, self.height = self._image.size
        if self.width * self.height * num_scans > MAX_SCANNED_PIXELS:
            message = (
                f"the JPEG has {num_scans} scans of {self.width} x {self.height} pixels, which is too many"
            )
            raise InvalidValue(f"{message}; save it as a baseline JPEG", "media")

    def read(self) -> Image.Image:
        """Decode the first frame to RGB, upright, over white where it is transparent; raises InvalidValue."""
        with _errors_of_the_file(self._medium), self._image as image:
            image.load()
            return _rgb(_upright(image))


def _check_chunks(medium: bytes) -> None:
    """Raise InvalidValue if a PNG has more chunks than any writer makes: Pillow keeps each it does not know."""
    if not medium.startswith(_PNG_START):
        return
    place = len(_PNG_START)
    for _ in range(_MAX_PNG_CHUNKS):
        place += 12 + int.from_bytes(medium[place : place + 4], "big")
        if place >= len(medium):
            return
    raise InvalidValue(f"the PNG has more than {_MAX_PNG_CHUNKS} chunks; save it again", "media")


def _num_scans(medium: bytes) -> int:
    """Return the scans of a JPEG up to its end, after which a phone may have put a video.

    Raises:
        InvalidValue: it has more segments than any writer makes, and Pillow keeps each.
    """
    place, num_scans = len(_JPEG_START), 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker = _JPEG_MARKER.search(medium, place)
        if marker is None or marker[0] == _JPEG_END:
            return num_scans
        num_scans += marker[0] == _JPEG_SCAN
        place = marker.end() + int.from_bytes(medium[marker.end() : marker.end() + 2], "big")
    message = f"the JPEG has more than {_MAX_JPEG_SEGMENTS} segments; save it as a baseline JPEG"
    raise InvalidValue(message, "media")


def _check_tile(image: Image.Image) -> None:
    """Raise ValueError if an image is a TIFF whose tiles are far larger than the image."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        sides = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
        width, height = (image.tag_v2.get(side, 0) for side in sides)
        if width * height > max(MAX_TILE_PIXELS, 2 * image.width * image.height):
            raise ValueError(f"its tiles have {width} x {height} pixels, far more than the image")


@contextmanager
def _errors_of_the_file(medium: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises into an error of the client."""
    try:
        yield
    except UnidentifiedImageError:
        raise unreadable(medium, f"an image that is known: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        message = f"the image has more than {MAX_IMAGE_PIXELS} pixels; make it smaller before you send it"
        raise InvalidValue(message, "media") from None
    except Exception as error:
        raise InvalidValue(f"the image cannot be decoded: {error}; is the file complete?", "media") from error


def unreadable(medium: bytes, expected: str) -> InvalidValue:
    """Return the error about a file that is not what it should be."""
    found = describe(medium)
    inside = describe(_from_base64(medium[:_BASE64_CHARACTERS])) if found == _UNKNOWN else _UNKNOWN
    if inside != _UNKNOWN:
        message = f"the file is {inside} in base64; send base64 as data:image/png;base64,..."
        return InvalidValue(message, "media")
    is_cut = found.startswith("a video") and "video" in expected
    way_out = "; is the file complete?" if is_cut else ""
    return InvalidValue(f"the file is {found}, not {expected}{way_out}", "media")


def _from_base64(text: bytes) -> bytes:
    """Return what a text in base64 begins with; if it is none, itself."""
    try:
        return base64.b64decode(text.translate(_URL_SAFE), validate=True) or text
    except ValueError:
        return text


def describe(medium: bytes) -> str:
    """Return what a file seems to be, by its first bytes, in words for an error."""
    prefix = medium[:16]
    if not medium:
        return "empty"
    for image_format in FORMATS:
        _, accept = Image.OPEN[image_format]
        if accept is not None and accept(prefix) is True:
            return f"an image ({image_format})"
    return next((words for place, magic, words in _OTHERS if prefix[place:].startswith(magic)), _UNKNOWN)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - broken EXIF of a good image
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB; of 16 bits of grey the upper 8, as Pillow does for 16 bits of color."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits each; 8 and 16 are supported")
    if not image.has_transparency_data:
        return _in_mode(image, "RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    image = _in_mode(image, "RGBA")
    white.paste(image, mask=image)
    return white


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in a mode, without a copy if it has that."""
    return image if image.mode == mode else image.convert(mode)
