"""The file of an image to RGB pixels: of known formats by their content, its size limited before it is decoded.

What Pillow raises about a file depends on its plugin, down to IndexError; to a client it is all the same.
"""

from __future__ import annotations

import warnings
from io import BytesIO

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
MAX_IMAGE_PIXELS = 89_478_485
"""Pillow's own limit, above which it suspects a decompression bomb: 341 MiB in memory."""
MAX_JPEG_SCANS = 100
"""A progressive JPEG has about ten; each costs as much as decoding all of the image, and next to no bytes."""
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

Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
warnings.filterwarnings(
    "error", category=Image.DecompressionBombWarning
)  # else an error at twice the limit only


def read_image(medium: bytes) -> Image.Image:
    """Return the image in a file in RGB: the first frame, upright, over white where it is transparent.

    Raises:
        InvalidValue: it is not an image of a known format, too large, or broken.
    """
    if medium.count(b"\xff\xda") > MAX_JPEG_SCANS and medium.startswith(b"\xff\xd8"):
        raise InvalidValue(
            f"the JPEG has more than {MAX_JPEG_SCANS} scans; save it as a baseline JPEG", "media"
        )
    try:
        with Image.open(BytesIO(medium), formats=FORMATS) as image:
            image.load()
            return _rgb(_upright(image))
    except UnidentifiedImageError:
        raise InvalidValue(f"the file is not an image; known formats: {', '.join(FORMATS)}", "media") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        message = f"the image has more than {MAX_IMAGE_PIXELS} pixels; make it smaller before you send it"
        raise InvalidValue(message, "media") from None
    except Exception as error:
        raise InvalidValue(f"the image cannot be decoded: {error}; is the file complete?", "media") from error


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
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image)
    return white
