"""What ``--model`` names, and the name the model is served under."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.model.source import find_model, is_model_id, local_model


def make_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"12345")
    return directory


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c", "~/nowhere"])
def test_a_path_that_is_not_there(model: str) -> None:
    with pytest.raises(CommandError, match="does not exist"):
        find_model(model)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(CommandError, match="directory"):
        find_model(str(file))


def test_a_directory_without_config_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"config\.json"):
        find_model(str(tmp_path))


def test_a_relative_model_directory_becomes_absolute_and_wins_over_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_model(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    found = find_model("owner/name")
    assert found.directory == directory
    assert (found.size_bytes, found.weights_bytes) == (7, 5)
    (found.directory / "rank0").mkdir()
    (found.directory / "rank0" / "model.safetensors").write_bytes(b"123")
    assert found.weights_bytes == 8


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ERNIE-4.5-0.3B", "ERNIE-4.5-0.3B"),
        ("ernie-tiny/weights", "ernie-tiny"),
        ("ernie/model/1", "ernie"),
        (
            "models--baidu--ERNIE-4.5-0.3B-PT/snapshots/0123456789abcdef0123456789abcdef01234567",
            "ERNIE-4.5-0.3B-PT",
        ),
    ],
)
def test_the_name_is_the_nearest_folders_that_says_something(path: str, name: str, tmp_path: Path) -> None:
    assert local_model(str(make_model(tmp_path / path))).name == name


@pytest.mark.parametrize(
    ("model", "is_id"),
    [
        ("PaddlePaddle/ERNIE-4.5-0.3B-Paddle", True),
        ("baidu/x.y_z", True),
        ("../x", False),
        ("/a/b", False),
        ("~/b", False),
        ("plain", False),
        ("a/b/c", False),
        ("a/b c", False),
    ],
)
def test_what_looks_like_an_id(model: str, is_id: bool) -> None:
    assert is_model_id(model) is is_id
