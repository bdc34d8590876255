"""What the model families do with the pixels of an image: its size, limits, normalization, order of patches.

Sizes are multiples of 28: 14 pixels of a patch, two patches by two of a token, of two frames in a video.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ernie_wire.errors import InvalidValue

PATCH = 14
MERGE = 2
TEMPORAL_MERGE = 2
FACTOR = PATCH * MERGE
CELL = FACTOR * FACTOR
"""Pixels of a token."""
MAX_RATIO = 200


class PixelLimits(NamedTuple):
    """The fewest and the most pixels of an image or a frame after it was resized."""

    min_pixels: int
    max_pixels: int


Resize = Callable[[int, int, PixelLimits], tuple[int, int]]
"""Returns the height and width to which an image of a height and width is resized; raises InvalidValue."""


@dataclass(frozen=True)
class Family:
    """How a family of models prepares images.

    Attributes:
        resize: the size of an image in its encoder.
        order_patches: cuts uint8 ``[h * 14, w * 14, 3]`` into ``[h * w, 588]``, channel by channel.
        image: limits of an image, unless the model's files say otherwise.
        has_own_limits: whether ``preprocessor_config.json`` says otherwise.
        largest_image: pixels to which a request may raise the maximum of an image.
        video: limits of a frame; None: the model takes no videos.
        mean: of the pixels by channel, in [0, 1], unless ``preprocessor_config.json`` says otherwise.
        std: the deviation, likewise.
    """

    resize: Resize
    order_patches: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    image: PixelLimits
    has_own_limits: bool
    largest_image: int
    video: PixelLimits | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resize_ernie_vl(height: int, width: int, limits: PixelLimits) -> tuple[int, int]:
    """Return the size of ERNIE-4.5-VL's ``smart_resize``.

    A long side above 200 times the short one is cut to that ratio first, as in FastDeploy; transformers refuses
    it. A side that the maximum would bring below 28 is 28, as in transformers; FastDeploy refuses it.
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        short = _rounded(min(height, width))
        long = short * MAX_RATIO // FACTOR * FACTOR
        height, width = (long, short) if height > width else (short, long)
    return _within(height, width, limits)


def resize_paddleocr_vl(height: int, width: int, limits: PixelLimits) -> tuple[int, int]:
    """Return the size of PaddleOCR-VL's ``smart_resize``: a side below 28 is enlarged to 28 first.

    Raises:
        InvalidValue: one side is then more than 200 times as long as the other.
    """
    enlarged = height, width
    if height < FACTOR:
        enlarged = FACTOR, round(width * FACTOR / height)
    if enlarged[1] < FACTOR:
        enlarged = round(enlarged[0] * FACTOR / enlarged[1]), FACTOR
    if max(enlarged) > MAX_RATIO * min(enlarged):
        raise InvalidValue(
            f"the image of {width} x {height} pixels is too narrow: one side may be at most {MAX_RATIO} times "
            f"as long as the other; cut it into pieces",
            "media",
        )
    return _within(*enlarged, limits)


def _rounded(side: int) -> int:
    """Return the multiple of 28 next to a side, at least 28; of two equally near ones the even multiple."""
    return max(FACTOR, round(side / FACTOR) * FACTOR)


def _within(height: int, width: int, limits: PixelLimits) -> tuple[int, int]:
    """Return a size of nearly the same ratio, of sides that are multiples of 28, within limits of its pixels.

    Where no size is within both, the maximum counts; FastDeploy refuses such an image. A maximum below
    ``200 * 28 * 28`` cannot hold every ratio with a side of at least 28; then it is exceeded.
    """
    size = _rounded(height), _rounded(width)
    if math.prod(size) < limits.min_pixels:
        scale = math.sqrt(limits.min_pixels / (height * width))
        size = (math.ceil(height * scale / FACTOR) * FACTOR, math.ceil(width * scale / FACTOR) * FACTOR)
    if math.prod(size) > limits.max_pixels:
        scale = math.sqrt(height * width / limits.max_pixels)
        size = (_floored(height / scale), _floored(width / scale))
    return size


def _floored(side: float) -> int:
    return max(FACTOR, math.floor(side / FACTOR) * FACTOR)


def patches_in_blocks(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the patches token by token, each of two by two patches, for ERNIE-4.5-VL's tower."""
    high, wide = pixels.shape[0] // FACTOR, pixels.shape[1] // FACTOR
    blocks = pixels.reshape(high, MERGE, PATCH, wide, MERGE, PATCH, 3)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * PATCH * PATCH)


def patches_in_rows(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the patches row by row, for PaddleOCR-VL's tower."""
    high, wide = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    rows = pixels.reshape(high, PATCH, wide, PATCH, 3)
    return rows.transpose(0, 2, 4, 1, 3).reshape(-1, 3 * PATCH * PATCH)


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
ERNIE_VL = Family(
    resize_ernie_vl,
    patches_in_blocks,
    image=PixelLimits(4 * CELL, 6177 * CELL),
    has_own_limits=False,  # FastDeploy has these numbers in its code; the file's are of training
    largest_image=6177 * CELL,
    video=PixelLimits(299 * CELL, 1196 * CELL),
    mean=_CLIP_MEAN,
    std=_CLIP_STD,
)
PADDLEOCR_VL = Family(
    resize_paddleocr_vl,
    patches_in_rows,
    image=PixelLimits(130 * CELL, 1280 * CELL),
    has_own_limits=True,
    largest_image=3600
    * CELL,  # of the 0.9B; later releases have less as the default, and clients that want more
    video=None,
    mean=_HALF,
    std=_HALF,
)
FAMILIES = {
    "Ernie4_5_VLMoeForConditionalGeneration": ERNIE_VL,
    "PaddleOCRVLForConditionalGeneration": PADDLEOCR_VL,
}
"""By the architecture's name in transformers; the others take no media."""
