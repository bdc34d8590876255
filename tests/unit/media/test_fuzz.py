"""Broken files of every format: an item or an error about the file, never anything else."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from ernie_wire.errors import InvalidRequest
from support.media import grey_frames, image_file, processor, video_file

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
IMAGES = {
    **{
        name: image_file(Image.fromarray(PIXELS), name)
        for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    },
    "progressive JPEG": image_file(Image.fromarray(PIXELS), "JPEG", progressive=True),
    "palette PNG": image_file(Image.fromarray(PIXELS).quantize(16), transparency=3),
    "lossless WebP": image_file(Image.fromarray(PIXELS), "WEBP", lossless=True),
    "LZW TIFF": image_file(Image.fromarray(PIXELS), "TIFF", compression="tiff_lzw"),
    "animated GIF": image_file(
        Image.fromarray(PIXELS), "GIF", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]
    ),
}
VIDEOS = {
    f"{container} {codec}": video_file(grey_frames(12, 32, 32), container, codec, g="6")
    for container, codec in [
        ("mp4", "libx264"),
        ("mov", "mjpeg"),
        ("webm", "libvpx-vp9"),
        ("avi", "mpeg4"),
        ("mpegts", "libx264"),
        ("gif", "gif"),
    ]
}
FILES = {
    **{name: ("image", file) for name, file in IMAGES.items()},
    **{name: ("video", file) for name, file in VIDEOS.items()},
}


def mutated(file: bytes, generator: random.Random) -> bytes:
    """Return a file with some bytes changed, inserted, removed or cut off, mostly near its beginning."""
    changed = bytearray(file)
    for _ in range(generator.randint(1, 8)):
        reach = len(changed) if generator.random() < 0.3 else min(len(changed), 120)
        place = generator.randrange(max(1, reach))
        match generator.randrange(5):
            case 0:
                changed[place : place + 1] = generator.randbytes(1)
            case 1:
                changed[place : place + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
            case 2:
                del changed[place : place + generator.randint(1, 20)]
            case 3:
                changed[place:place] = generator.randbytes(generator.randint(1, 20))
            case 4 if generator.random() < 0.2:
                del changed[place:]
    return bytes(changed)


def check(name: str, seeds: range) -> int:
    """Prepare mutations of a file; return how many could still be read."""
    kind, file = FILES[name]
    loaded, read = processor(), 0
    for seed in seeds:
        medium = mutated(file, random.Random(f"{name} {seed}"))
        try:
            item = loaded.prepare(medium, kind, {"max_pixels": 10_000, "max_frames": 4})
        except InvalidRequest:
            continue
        assert len(item.patches) == np.prod(item.grid)
        read += 1
    return read


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_or_refused(name: str) -> None:
    assert check(name, range(60)) < 60


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_many_mutated_files_are_read_or_refused(name: str) -> None:
    assert check(name, range(1000, 3000)) < 2000
