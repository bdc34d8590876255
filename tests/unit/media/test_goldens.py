"""The patches of images and frames are those of transformers' processors."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ernie_backend.media.videos import ReadFrame
from support.media import PIXEL_TOLERANCE, ROW_TOLERANCE, image_file, processor
from support.paths import DATA

CASES = [
    ("vl_moe", "image", 1),
    ("vl_moe", "two_images", 2),
    ("vl_moe", "image_video", 1),
    ("paddleocr_vl", "image", 1),
    ("paddleocr_vl", "two_images", 2),
    ("paddleocr_vl", "ocr", 1),
]


@pytest.mark.parametrize(("family", "case", "num_images"), CASES)
def test_images_are_prepared_as_by_transformers(family: str, case: str, num_images: int) -> None:
    loaded = processor(family)
    with np.load(DATA / f"{family}.npz") as golden:
        arrays = {name: golden[f"{case}.{name}"] for name in ("image_grid_thw", "pixel_values_rowsum")}
        arrays |= {name: golden[f"{case}.{name}"] for name in ("pixel_values_row0", "pixel_values_rowlast")}
        images = [golden[f"{case}.image{index}"] for index in range(num_images)]
        whole = golden[f"{case}.pixel_values"] if case == "image" else None
    items = [loaded.prepare(image_file(Image.fromarray(image)), "image", {}) for image in images]
    mean, std = np.repeat(loaded.mean, 14 * 14), np.repeat(loaded.std, 14 * 14)
    pixels = np.concatenate([(item.patches / 255.0 - mean) / std for item in items])

    assert [item.grid for item in items] == [tuple(grid) for grid in arrays["image_grid_thw"].tolist()]
    assert [item.num_tokens for item in items] == [len(item.patches) // 4 for item in items]
    np.testing.assert_allclose(pixels.sum(axis=1), arrays["pixel_values_rowsum"], atol=ROW_TOLERANCE)
    np.testing.assert_allclose(pixels[0], arrays["pixel_values_row0"], atol=PIXEL_TOLERANCE)
    np.testing.assert_allclose(pixels[-1], arrays["pixel_values_rowlast"], atol=PIXEL_TOLERANCE)
    if whole is not None:
        np.testing.assert_allclose(pixels, whole.reshape(pixels.shape), atol=PIXEL_TOLERANCE)


def golden_video(case: str) -> tuple[list[NDArray[np.uint8]], tuple[int, ...], NDArray[np.float32]]:
    with np.load(DATA / "vl_moe.npz") as golden:
        frames = list(golden[f"{case}.video0"])
        return frames, tuple(golden[f"{case}.video_grid_thw"][0]), golden[f"{case}.pixel_values_videos_rowsum"]


@pytest.mark.parametrize("case", ["video", "image_video"])
def test_frames_are_prepared_as_by_transformers(case: str) -> None:
    frames, grid, row_sums = golden_video(case)
    loaded = processor()

    class Frames:
        """A video without loss, whose frames have the limits of an image, as those of the golden."""

        num_frames, rate = len(frames), 1.0

        def read(self, wanted: list[int]) -> Iterator[ReadFrame]:
            for place, index in enumerate(wanted):
                yield ReadFrame(place, index, Image.fromarray(frames[index]))

    module = "ernie_backend.media.processor"
    with patch(f"{module}.Video", return_value=Frames()), patch(f"{module}.draw_time"):
        item = loaded.prepare(b"", "video", {"min_pixels": 3136, "max_pixels": 937_664})
    mean, std = np.repeat(loaded.mean, 14 * 14), np.repeat(loaded.std, 14 * 14)
    assert item.grid == grid
    assert item.num_tokens == grid[0] * grid[1] * grid[2] // 8
    np.testing.assert_allclose(((item.patches / 255.0 - mean) / std).sum(axis=1), row_sums, atol=ROW_TOLERANCE)
