"""The config.pbtxt of the repository's entries is the one that the contract generates."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_wire.__main__ import main, parameters_of
from ernie_wire.tensors import config_pbtxt
from support.paths import REPOSITORY

ENTRIES = sorted(path.name for path in REPOSITORY.iterdir() if (path / "config.pbtxt").exists())


def test_the_embedded_entry_is_there() -> None:
    assert "ernie-tiny" in ENTRIES
    assert parameters_of((REPOSITORY / "ernie-tiny" / "config.pbtxt").read_text())["model"] == "weights"


@pytest.mark.parametrize("entry", ENTRIES)
def test_config_pbtxt_is_generated(entry: str) -> None:
    text = (REPOSITORY / entry / "config.pbtxt").read_text()
    assert text == config_pbtxt(entry, parameters_of(text)), "run: python -m ernie_wire model_repository"


def test_parameters_with_quotes_and_lines_survive() -> None:
    parameters = {"a": 'x"y\\z\nw', "b": "", "c": "\\n"}
    assert parameters_of(config_pbtxt("e", parameters)) == parameters


def test_main_writes_entries_anew_and_keeps_their_parameters(tmp_path: Path) -> None:
    entry = tmp_path / "e"
    entry.mkdir()
    expected = config_pbtxt("e", {"model": "weights"})
    (entry / "config.pbtxt").write_text(expected.replace("TYPE_INT32", "TYPE_INT64"))
    main(tmp_path)
    assert (entry / "config.pbtxt").read_text() == expected
