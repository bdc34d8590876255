"""The entries of the released models are those that the table makes, and the engine knows what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_backend.settings.engine_settings import SETTINGS
from ernie_cli.demo import EMBEDDED_ENTRY
from ernie_cli.presets.released import released_model
from ernie_cli.presets.rows import ENTRIES, ROWS, entry_parameters
from ernie_cli.triton.run_directory import MODEL_PY
from ernie_stub.entry import Entry
from ernie_wire.tensors import config_pbtxt
from support.paths import REPOSITORY


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_made_from_the_table(entry: str) -> None:
    again = "run: python -m ernie_cli.presets model_repository"
    assert (REPOSITORY / entry / "config.pbtxt").read_text() == config_pbtxt(entry, entry_parameters(entry)), (
        again
    )
    assert (REPOSITORY / entry / "1" / "model.py").read_text() == MODEL_PY, again


def test_the_repository_holds_no_other_entry() -> None:
    assert {path.name for path in REPOSITORY.iterdir() if path.is_dir()} == {*ENTRIES, EMBEDDED_ENTRY}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_says_what_its_row_says(entry: str) -> None:
    row, parameters = ROWS[ENTRIES[entry]], entry_parameters(entry)
    said = {f"--{name.replace('_', '-')}": value for name, value in parameters.items()}
    assert said == {**row.options, **row.others}
    assert set(parameters) <= set(SETTINGS)
    assert entry.removesuffix("-0.9b") == row.model.name.lower()


def test_an_entry_takes_its_weights_from_the_model_root(tmp_path: Path) -> None:
    entry = Entry("ernie-4.5-21b-a3b", tmp_path, entry_parameters("ernie-4.5-21b-a3b"))
    assert entry.weights({}) is None
    weights = tmp_path / entry.name
    weights.mkdir()
    assert entry.weights({"ERNIE_MODEL_ROOT": str(tmp_path)}) == weights
    assert "ernie-4.5-21b-a3b" in entry.missing_weights({})


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("PaddlePaddle/ERNIE-4.5-21B-A3B-Paddle", "ERNIE-4.5-21B-A3B"),
        ("baidu/ERNIE-4.5-0.3B-PT", "ERNIE-4.5-0.3B"),
        ("ernie-4.5-vl-28b-a3b-thinking", "ERNIE-4.5-VL-28B-A3B-Thinking"),
        ("PaddlePaddle/PaddleOCR-VL", "PaddleOCR-VL"),
        ("PaddlePaddle/PaddleOCR-VL-1.5", "PaddleOCR-VL-1.5"),
        ("PaddlePaddle/PaddleOCR-VL-1.6", "PaddleOCR-VL-1.6"),
        ("ERNIE-4.5-0.3B-Base", None),
    ],
)
def test_a_released_model_is_known_by_its_ids(asked: str, name: str | None) -> None:
    found = released_model(asked)
    assert (found.name if found else None) == name
