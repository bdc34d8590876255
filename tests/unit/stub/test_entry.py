"""Where an entry finds its weights and what it hands to the engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ernie_stub.engine_process import engine_environment
from ernie_stub.entry import Entry, EntryError


def entry(directory: Path, **parameters: str) -> Entry:
    return Entry("ernie", directory, parameters)


def test_entry_from_what_triton_gives() -> None:
    config = {"parameters": {"model": {"string_value": "weights"}, "dtype": {"string_value": "float32"}}}
    arguments = {"model_config": json.dumps(config), "model_name": "e", "model_repository": "/r/e"}
    assert Entry.from_triton(arguments) == Entry("e", Path("/r/e"), {"model": "weights", "dtype": "float32"})


def test_weights_relative_and_absolute(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    assert entry(tmp_path, model="weights").weights({}) == tmp_path / "weights"
    assert entry(Path("/elsewhere"), model=str(tmp_path)).weights({}) == tmp_path


def test_weights_from_the_model_root(tmp_path: Path) -> None:
    (tmp_path / "ernie").mkdir()
    assert entry(Path("/e"), model="").weights({"ERNIE_MODEL_ROOT": str(tmp_path)}) == tmp_path / "ernie"


def test_a_directory_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match=r"parameter model .*/weights"):
        entry(tmp_path, model="weights").weights({"ERNIE_MODEL_ROOT": str(tmp_path)})


def test_an_unconfigured_entry_names_the_three_ways(tmp_path: Path) -> None:
    bare = entry(tmp_path)
    assert bare.weights({}) is None
    assert bare.weights({"ERNIE_MODEL_ROOT": str(tmp_path)}) is None
    missing = bare.missing_weights({})
    for way in ("config.pbtxt", "$ERNIE_MODEL_ROOT/ernie", "ernie-triton serve --model"):
        assert way in missing


def test_engine_settings_and_python(tmp_path: Path) -> None:
    given = entry(tmp_path, model="w", dtype="float32", engine_python="/opt/python")
    assert given.engine_python == "/opt/python"
    assert given.engine_settings(Path("/abs/w")) == {"model": "/abs/w", "dtype": "float32"}
    assert entry(tmp_path).engine_python == sys.executable


def test_an_unknown_interpreter_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EntryError, match="engine_python"):
        _ = entry(tmp_path).engine_python


def test_the_engine_does_not_get_tritons_libraries(tmp_path: Path) -> None:
    (tmp_path / "libtritonserver.so").touch()
    path = f"/x/nvidia_pytriton.libs:/usr/lib/here:{tmp_path}:/opt/tritonserver/lib:"
    assert engine_environment({"LD_LIBRARY_PATH": path, "A": "b"}) == {
        "LD_LIBRARY_PATH": "/usr/lib/here",
        "A": "b",
    }
    assert engine_environment({"LD_LIBRARY_PATH": str(tmp_path)}) == {}
    assert engine_environment({}) == {}
