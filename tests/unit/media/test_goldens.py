"""The patches of images are those of transformers' processors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from support.media import image_file, processor
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
    np.testing.assert_allclose(pixels.sum(axis=1), arrays["pixel_values_rowsum"], atol=2e-4)
    np.testing.assert_allclose(pixels[0], arrays["pixel_values_row0"], atol=1e-6)
    np.testing.assert_allclose(pixels[-1], arrays["pixel_values_rowlast"], atol=1e-6)
    if whole is not None:
        np.testing.assert_allclose(pixels, whole.reshape(pixels.shape), atol=1e-6)
