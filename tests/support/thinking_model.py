"""Model directories that think and call tools: the dense checkpoint with a template like a released model's.

The weights are random, so nothing here thinks by itself: tests force it, or choose the tokens themselves.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.settings.reader import read_settings
from support.paths import DATA, DENSE

TEMPLATES = DATA / "thinking_templates"
"""Written after what is known of Baidu's; the name of each is that of its parser of reasoning."""
FORMATS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1")
CHATML = {"<|im_start|>": 562, "<|im_end|>": 563}
"""Tokens that ernie-x1 adds, within the padding of the vocabulary; the second ends its answers."""
EOS = 2


def thinking_model(directory: Path, form: str) -> Path:
    """Make a model directory.

    Args:
        directory: where; it may exist.
        form: one of ``FORMATS``.

    Returns:
        ``directory``.
    """
    shutil.copytree(DENSE, directory, dirs_exist_ok=True)
    shutil.copy(TEMPLATES / f"{form}.jinja", directory / "chat_template.jinja")
    if form == "ernie-x1":
        (directory / "added_tokens.json").write_text(json.dumps(CHATML))
        _update(directory / "special_tokens_map.json", chatml_special_tokens=list(CHATML))
        _update(directory / "generation_config.json", eos_token_id=[EOS, CHATML["<|im_end|>"]])
    return directory


def _update(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def load_processor(directory: Path, **parameters: str) -> InputProcessor:
    """Return the input processor of a model directory."""
    config = ModelConfig.from_directory(directory)
    return InputProcessor.load(read_settings({"model": str(directory), **parameters}, config), config)
