"""The model argument is judged before anything starts; names become Triton entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.serve_settings import ServeSettings, engine_parameters


def settings(model: str, served_model_name: str | None = None, name: str | None = None) -> ServeSettings:
    return ServeSettings(model=model, host="127.0.0.1", port=0, served_model_name=served_model_name, name=name)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("PaddlePaddle/ERNIE-4.5-0.3B-Paddle", "hub id: downloading is not supported yet"),
        ("./nowhere", "does not exist; check the path"),
        ("/nowhere/at/all", "does not exist; check the path"),
    ],
)
def test_a_model_that_is_not_there(model: str, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        settings(model).model_directory()


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(CommandError, match="is not a directory"):
        settings(str(file)).model_directory()


def test_a_directory_without_config_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"holds no config\.json"):
        settings(str(tmp_path)).model_directory()


def test_a_relative_model_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    assert settings("model").model_directory() == tmp_path / "model"


def test_the_entry_is_named_by_the_served_name_then_the_given_name_then_the_directory() -> None:
    directory = Path("/models/ERNIE-4.5-0.3B")
    assert settings("m").entry(directory) == "ERNIE-4.5-0.3B"
    assert settings("m", name="ernie-tiny").entry(directory) == "ernie-tiny"
    assert settings("m", "baidu/ernie 4.5", "ernie-tiny").entry(directory) == "baidu-ernie-4.5"


def test_only_given_engine_settings_are_passed_on() -> None:
    parameters = engine_parameters(max_num_seqs=128, gpu_memory_utilization=0.9, dtype=None)
    assert parameters == {"max_num_seqs": "128", "gpu_memory_utilization": "0.9"}
