"""Texts to calibrate with: what the two kinds of files hold, and what is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.quantization.calibration_texts import read_texts
from support.paths import DATA


def test_texts(tmp_path: Path) -> None:
    config = ModelConfig.from_directory(DATA / "dense")
    plain, lines = tmp_path / "texts.txt", tmp_path / "texts.jsonl"
    plain.write_text("Hello there\n\nWhere is the capital?\n")
    texts = read_texts(plain, DATA / "dense", config)
    assert len(texts) == 2
    lines.write_text(f'"Hello there"\n{json.dumps([7, 8, 9])}\n{json.dumps([5] * 3000)}\n')
    assert read_texts(lines, DATA / "dense", config) == [texts[0], [7, 8, 9], [5] * 1024]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[1, 2", "t.jsonl:1 .*JSON"),
        ("[]", "t.jsonl:1 "),
        ("[1, 2.5]", "t.jsonl:1 "),
        ("[1, 640]", "token id 640"),
        ("", "empty"),
        (
            "[1, 2, 3]\n" * 22000,
            "66000 .*65536",
        ),
    ],
)
def test_wrong_texts(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(StartError, match=complaint):
        read_texts(tmp_path / "t.jsonl", DATA / "dense", ModelConfig.from_directory(DATA / "dense"))
