"""Sizes of images in the encoder, against those of FastDeploy and transformers."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ernie_backend.media.families import (
    CELL,
    ERNIE_VL,
    FACTOR,
    PADDLEOCR_VL,
    Family,
    PixelLimits,
    resize_ernie_vl,
    resize_paddleocr_vl,
)
from ernie_wire.errors import InvalidValue

LARGE = PixelLimits(3136, 12845056)
OCR_FASTDEPLOY, OCR_TRANSFORMERS = PixelLimits(101920, 1003520), PixelLimits(147456, 2359296)
Size = tuple[int, int]


@pytest.mark.parametrize(
    ("size", "default", "large"),
    [
        ((224, 224), (224, 224), (224, 224)),
        ((480, 640), (476, 644), (476, 644)),
        ((1080, 1920), (1092, 1932), (1092, 1932)),
        ((3000, 4000), (1904, 2520), (2996, 4004)),
        ((5000, 5000), (2184, 2184), (3556, 3556)),
        ((20, 20), (56, 56), (56, 56)),
        ((100, 1000), (112, 1008), (112, 1008)),
        ((56, 28000), (56, 11200), (56, 11200)),
        ((28000, 56), (11200, 56), (11200, 56)),
        ((1, 1), (56, 56), (56, 56)),
        ((3, 32), (28, 196), (28, 196)),
    ],
)
def test_sizes_of_ernie_vl(size: Size, default: Size, large: Size) -> None:
    assert resize_ernie_vl(*size, ERNIE_VL.image) == default
    assert resize_ernie_vl(*size, LARGE) == large


@pytest.mark.parametrize(
    ("size", "fastdeploy", "transformers"),
    [
        ((224, 224), (336, 336), (392, 392)),
        ((480, 640), (476, 644), (476, 644)),
        ((1080, 1920), (728, 1316), (1092, 1932)),
        ((3000, 4000), (840, 1148), (1316, 1764)),
        ((5000, 5000), (980, 980), (1512, 1512)),
        ((20, 20), (336, 336), (392, 392)),
        ((100, 1000), (112, 1008), (140, 1232)),
        ((3, 40), (112, 1176), (112, 1428)),
    ],
)
def test_sizes_of_paddleocr_vl(size: Size, fastdeploy: Size, transformers: Size) -> None:
    assert resize_paddleocr_vl(*size, OCR_FASTDEPLOY) == fastdeploy
    assert resize_paddleocr_vl(*size, OCR_TRANSFORMERS) == transformers


@pytest.mark.parametrize("size", [(56, 28000), (28000, 56), (3, 2000), (1, 201)])
def test_paddleocr_vl_takes_no_images_that_are_too_narrow(size: Size) -> None:
    with pytest.raises(InvalidValue, match=f"{size[1]} x {size[0]} pixels.*200") as caught:
        resize_paddleocr_vl(*size, OCR_FASTDEPLOY)
    assert caught.value.param == "media"


@given(
    st.tuples(st.integers(1, 70_000), st.integers(1, 70_000)),
    st.integers(CELL, 10**6),
    st.integers(0, 10**7),
    st.sampled_from([ERNIE_VL, PADDLEOCR_VL]),
)
def test_every_size_is_made_of_cells_within_the_limits(
    size: Size, least: int, more: int, family: Family
) -> None:
    limits = PixelLimits(least, max(4 * least, 200 * CELL) + more)
    try:
        height, width = family.resize(*size, limits)
    except InvalidValue:
        assert family is PADDLEOCR_VL
        assert max(size) > 190 * min(size)
        return
    assert height % FACTOR == width % FACTOR == 0
    assert limits.min_pixels <= height * width <= limits.max_pixels
    assert family.resize(size[1], size[0], limits) == (width, height)


@given(st.integers(28, 3000), st.integers(28, 3000), st.integers(200 * CELL, 10**6))
def test_where_no_size_is_within_both_limits_the_maximum_counts(height: int, width: int, limit: int) -> None:
    assume(max(height, width) <= 200 * min(height, width))
    assert math.prod(resize_ernie_vl(height, width, PixelLimits(limit, limit))) <= limit


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([ERNIE_VL, PADDLEOCR_VL]))
def test_a_size_of_cells_within_the_limits_stays(cells_high: int, cells_wide: int, family: Family) -> None:
    assume(max(cells_high, cells_wide) <= 200 * min(cells_high, cells_wide))
    size = (cells_high * FACTOR, cells_wide * FACTOR)
    assert family.resize(*size, PixelLimits(CELL, 10**9)) == size
