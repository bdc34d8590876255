"""The images of the goldens at the sizes of their grids: bicubic by Pillow 13, as the goldens were made.

Earlier versions of Pillow, the only ones for Python 3.10, round some values otherwise. The goldens are too
exact for that, so the images are stored. Sums of the goldens' pixels show that they are right. To make them
again:

    .venv/bin/python tests/numerics/resized_images.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DATA = Path(__file__).parents[1] / "data"
_FILE = _DATA / "vision_resized.npz"
_FAMILIES = ("vl_moe", "paddleocr_vl")


@cache
def _stored() -> dict[str, NDArray[np.uint8]]:
    return dict(np.load(_FILE))


def resized(family: str, case: str, name: str) -> NDArray[np.uint8]:
    """Return the frames ``[T, h, w, 3]`` of a medium of a case, such as ``image0``: one if it is an image."""
    return _stored()[f"{family}.{case}.{name}"]


def _made() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for family in _FAMILIES:
        arrays = dict(np.load(_DATA / f"{family}.npz"))
        for case, kind in (name.removesuffix("_embeds").rsplit(".", 1) for name in arrays if "_embeds" in name):
            for index, (_, height, width) in enumerate(arrays[f"{case}.{kind}_grid_thw"].tolist()):
                source = arrays[f"{case}.{kind}{index}"]
                frames = [source] if kind == "image" else list(source)
                size = (14 * width, 14 * height)
                images = [Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each in frames]
                yield f"{family}.{case}.{kind}{index}", np.stack([np.asarray(each) for each in images])


if __name__ == "__main__":
    np.savez_compressed(_FILE, **dict(_made()))
