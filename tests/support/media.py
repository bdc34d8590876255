"""Processors of each family, and files of images and videos."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.settings.engine_settings import EngineSettings
from support.paths import DATA

ARCHITECTURES = {
    "vl_moe": "Ernie4_5_VLMoeForConditionalGeneration",
    "paddleocr_vl": "PaddleOCRVLForConditionalGeneration",
}


def processor(family: str = "vl_moe", directory: Path | None = None, **settings: Any) -> MediaProcessor:
    """Return the processor of a family, with preprocessor_config.json of its checkpoint or a directory."""
    config = replace(ModelConfig.from_directory(DATA / "dense"), architecture=ARCHITECTURES[family])
    directory = DATA / family if directory is None else directory
    loaded = MediaProcessor.load(directory, config, EngineSettings(directory).replaced(**settings))
    assert loaded is not None
    return loaded


def image_file(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
