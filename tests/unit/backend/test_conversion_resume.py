"""A conversion that was interrupted goes on: with the same result, and only with the same request."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.conversion import converter
from ernie_backend.conversion.conversion import Conversion, wanted
from ernie_backend.conversion.converter import convert
from ernie_backend.conversion.stored_tensors import quantized_tensors
from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from unit.backend.converted import DATA, TEXTS, assert_same_files, make
from unit.backend.safetensors_writer import read_tensors, write_tensors

W4A8C8 = wanted("w4a8", has_cache_scales=True)
FILES = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]


class Interrupted(Exception):
    pass


def stop_at(text: str) -> Callable[[str], None]:
    def report(line: str) -> None:
        if text in line:
            raise Interrupted

    return report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conversion makes if nothing interrupts it."""
    return make("moe_tp", tmp_path_factory.mktemp("whole") / "q", "w4a8", has_cache_scales=True, ranks=2)


@pytest.fixture
def conversion(tmp_path: Path) -> Conversion:
    """One that was interrupted after two of four files of two ranks."""
    conversion = Conversion(DATA / "moe_tp", tmp_path / "q", W4A8C8, 2, TEXTS)
    with pytest.raises(Interrupted):
        convert(conversion, stop_at("2/4"))
    return conversion


def goes_on(conversion: Conversion, whole: Path) -> list[str]:
    """Finish a conversion; returns the files that were found complete."""
    lines: list[str] = []
    convert(conversion, lines.append)
    assert_same_files(conversion.target, whole)
    return [line.split()[1].rstrip(":") for line in lines if line.endswith("was complete")]


def test_it_goes_on_with_the_next_file(
    conversion: Conversion, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartError, match=r"config\.json does not exist"):
        ModelConfig.from_directory(conversion.target)
    monkeypatch.setattr(converter, "calibrate", None)  # what was measured is still there
    assert goes_on(conversion, whole) == FILES[:2]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_other_tensors(path: Path) -> None:
    tensors = read_tensors(path)
    tensors.pop(min(tensors))
    write_tensors(path, tensors)


@pytest.mark.parametrize("damage", [truncated, of_other_tensors, Path.unlink])
def test_a_file_that_is_not_whole_is_made_again(
    conversion: Conversion, whole: Path, damage: Callable[[Path], None]
) -> None:
    """Of one rank: a crash of the machine, or a copy that was cut short."""
    damage(conversion.target / "rank1" / FILES[0])
    assert goes_on(conversion, whole) == FILES[1:2]


def test_an_interrupt_inside_a_file_leaves_nothing_of_it(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = Conversion(DATA / "moe_tp", tmp_path / "q", W4A8C8, 2, TEXTS)
    count = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt
        return quantized_tensors(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(converter, "quantized_tensors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(conversion, print)
    left = sorted(path.name for path in (conversion.target / "rank0").iterdir())
    assert left == FILES[:2]
    assert goes_on(conversion, whole) == FILES[:2]


def test_what_a_killed_run_left_is_overwritten(conversion: Conversion, whole: Path) -> None:
    for name in ("rank0/model-00003-of-00004.unfinished", "config.unfinished"):
        (conversion.target / name).write_bytes(b"half")
    assert goes_on(conversion, whole) == FILES[:2]


@pytest.mark.parametrize("change", ["source", "texts", "quantization", "cache", "ranks"])
def test_another_request_is_refused(conversion: Conversion, tmp_path: Path, change: str) -> None:
    shutil.copytree(DATA / "moe_tp", tmp_path / "source")
    source = tmp_path / "source" if change == "source" else conversion.source
    how = {
        "quantization": wanted("wint4", has_cache_scales=True),
        "cache": wanted("w4a8", has_cache_scales=False),
    }.get(change, conversion.how)
    texts = [*TEXTS[:-1], [*TEXTS[-1], 5]] if change == "texts" else TEXTS
    ranks = 4 if change == "ranks" else 2
    with pytest.raises(StartError, match="unfinished conversion of other settings, source or texts; empty it"):
        convert(Conversion(source, conversion.target, how, ranks, texts), print)


def test_config_json_comes_last(conversion: Conversion, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has one is taken for a model."""

    def interrupted(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(Interrupted):
            convert(conversion, print)
    there = {path.name for path in conversion.target.rglob("*")}
    assert {*FILES, "model.safetensors.index.json"} <= there
    assert "config.json" not in there
    assert goes_on(conversion, whole) == FILES
