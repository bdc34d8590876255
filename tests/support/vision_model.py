"""Model directories that see: the small checkpoints with the template of a released model."""

from __future__ import annotations

import hashlib
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_backend.chat import template
from ernie_backend.request.media import MediaItem
from support.paths import DATA

TEMPLATES = Path(template.__file__).with_name("templates")
CHECKPOINTS = {
    "ernie-4.5-vl": DATA / "vl_moe",
    "ernie-4.5-vl-thinking": DATA / "vl_moe",
    "paddleocr-vl": DATA / "paddleocr_vl",
    "paddleocr-vl-1.5": DATA / "paddleocr_vl",
}
"""By the names of our templates."""
VL, OCR = "Ernie4_5_VLMoeForConditionalGeneration", "PaddleOCRVLForConditionalGeneration"


def vision_model(directory: Path, form: str, checkpoint: Path | None = None) -> Path:
    """Make a model directory.

    Args:
        directory: where; it may exist.
        form: one of ``CHECKPOINTS``.
        checkpoint: another one of the same family.

    Returns:
        ``directory``.
    """
    shutil.copytree(checkpoint or CHECKPOINTS[form], directory, dirs_exist_ok=True)
    shutil.copy(TEMPLATES / f"{form}.jinja", directory / "chat_template.jinja")
    return directory


def media_item(kind: str, grid: tuple[int, int, int], seed: int = 0) -> MediaItem:
    """Return an item of random patches."""
    frames, height, width = grid
    patches = np.random.default_rng(seed).integers(0, 256, (frames * height * width, 588), np.uint8)
    num_tokens = frames * height * width // (4 if kind == "image" else 8)
    digest = hashlib.blake2b(patches.tobytes() + repr((kind, grid)).encode(), digest_size=32).digest()
    return MediaItem(kind, patches, grid, num_tokens, digest)


def picture(width: int, height: int, color: tuple[int, int, int] | NDArray[np.uint8] = (200, 30, 30)) -> bytes:
    """Return a PNG of one colour, or of pixels ``[height, width, 3]``."""
    image = Image.new("RGB", (width, height), color) if isinstance(color, tuple) else Image.fromarray(color)
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
