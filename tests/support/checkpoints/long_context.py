"""A checkpoint whose answers last until the test ends them, even if the machine stops for some seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.paths import DENSE

LONG_CONTEXT = 32_768
LONG_ANSWER = 32_000
"""Tokens; the dense checkpoint makes 2000 of them in a second or two, which a stall can take."""


def with_long_context(directory: Path, source: Path = DENSE) -> Path:
    """Copy a checkpoint into a directory, under its name, with a context of ``LONG_CONTEXT``.

    A request that does not say how long its answer may be gets a short one.
    """
    copy = Path(shutil.copytree(source, directory / source.name))
    _change(copy / "config.json", max_position_embeddings=LONG_CONTEXT)
    _change(copy / "generation_config.json", max_new_tokens=64)
    return copy


def _change(file: Path, **fields: int) -> None:
    values = json.loads(file.read_text())
    file.chmod(0o644)
    file.write_text(json.dumps({**values, **fields}))
