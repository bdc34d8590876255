"""Memory over thousands of files."""

from __future__ import annotations

import gc

import psutil
import pytest

from ernie_backend.media.pool import MediaPool
from ernie_backend.request.media import Medium
from ernie_wire.errors import InvalidValue
from support.media import image_file, plain_image, processor


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.full
def test_two_thousand_images_leave_no_memory_behind() -> None:
    pool = MediaPool(processor(), workers=2, cache_bytes=4 << 20)
    after_200 = 0
    for index in range(2000):
        image = image_file(
            plain_image(300 + index % 40, 200, color=index % 256), "JPEG" if index % 2 else "PNG"
        )
        whole, cut = (pool.submit([Medium(each, "image", {}, "m")]) for each in (image, image[: index % 100]))
        assert whole.exception() is None
        assert isinstance(cut.exception(), InvalidValue)
        if index == 200:
            after_200 = resident_bytes()
    assert resident_bytes() < 1.05 * after_200
