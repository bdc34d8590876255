"""A conversion that was interrupted goes on: with the same result, and only with the same request."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.quantization import quantizer
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.lock import TargetLock
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_backend.weights.checkpoints.prequantized import quantized_tensors
from support.checkpoints.quantized_checkpoints import TEXTS, assert_same_files, make
from support.checkpoints.safetensors_writer import read_tensors, write_tensors
from support.paths import DATA

W4A8C8 = QuantizationConfig("w4a8", has_cache_scales=True)
FILES = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]


class Interrupted(Exception):
    pass


def stop_at(text: str) -> Callable[[str], None]:
    def report(line: str) -> None:
        if text in line:
            raise Interrupted

    return report


def interrupted(*_: object) -> None:
    raise Interrupted


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_other_tensors(path: Path) -> None:
    tensors = read_tensors(path)
    tensors.pop(min(tensors))
    write_tensors(path, tensors)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conversion makes if nothing interrupts it."""
    return make("moe_tp", tmp_path_factory.mktemp("whole") / "q", "w4a8", has_cache_scales=True, ranks=2)


@pytest.fixture
def job(tmp_path: Path) -> QuantizationJob:
    """One that was interrupted after two of four files of two ranks."""
    job = QuantizationJob(DATA / "moe_tp", tmp_path / "q", W4A8C8, 2, TEXTS)
    with pytest.raises(Interrupted):
        quantize_checkpoint(job, stop_at("2/4"))
    return job


def goes_on(job: QuantizationJob, whole: Path, layers: int = 3) -> list[str]:
    """Finish a conversion, of which ``layers`` are measured; returns the files that were found complete."""
    lines: list[str] = []
    quantize_checkpoint(job, lines.append)
    assert_same_files(job.target, whole)
    measured = [f"calibration: layer {layer + 1} of 3, 240 tokens" for layer in range(layers, 3)]
    assert [line for line in lines if line.startswith("calibration")] == measured
    return [line.split()[1].rstrip(":") for line in lines if line.endswith("was complete")]


def test_it_goes_on_with_the_next_file(job: QuantizationJob, whole: Path) -> None:
    with pytest.raises(StartError, match=r"config\.json"):
        ModelConfig.from_directory(job.target)
    assert goes_on(job, whole) == FILES[:2]


def test_measuring_goes_on_with_the_next_layer(tmp_path: Path, whole: Path) -> None:
    job = QuantizationJob(DATA / "moe_tp", tmp_path / "q", W4A8C8, 2, TEXTS)
    for layer in (1, 2):
        with pytest.raises(Interrupted):
            quantize_checkpoint(job, stop_at(f"layer {layer} of 3"))
    assert goes_on(job, whole, layers=2) == []


@pytest.mark.parametrize("damage", [truncated, of_other_tensors])
def test_damaged_measurements_are_made_again(
    job: QuantizationJob, whole: Path, damage: Callable[[Path], None]
) -> None:
    damage(job.target / "calibration.safetensors")
    assert goes_on(job, whole, layers=0) == FILES[:2]


def test_nothing_is_measured_if_every_file_is_there(
    job: QuantizationJob, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt at the very end, when the measurements are gone and the marker is not."""
    with monkeypatch.context() as patch:
        patch.setattr(TargetLock, "remove", interrupted)
        with pytest.raises(Interrupted):
            quantize_checkpoint(job, print)
    assert sorted(path.name for path in job.target.glob("ca*")) == []
    assert goes_on(job, whole) == FILES


@pytest.mark.parametrize("damage", [truncated, of_other_tensors, Path.unlink])
def test_a_file_that_is_not_whole_is_made_again(
    job: QuantizationJob, whole: Path, damage: Callable[[Path], None]
) -> None:
    """Of one rank: a crash of the machine, or a copy that was cut short."""
    damage(job.target / "rank1" / FILES[0])
    assert goes_on(job, whole) == FILES[1:2]


def test_an_interrupt_inside_a_file_leaves_nothing_of_it(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = QuantizationJob(DATA / "moe_tp", tmp_path / "q", W4A8C8, 2, TEXTS)
    count = 0

    def interrupted_at_last(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt
        return quantized_tensors(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(quantizer, "quantized_tensors", interrupted_at_last)
        with pytest.raises(KeyboardInterrupt):
            quantize_checkpoint(job, print)
    left = sorted(path.name for path in (job.target / "rank0").iterdir())
    assert left == FILES[:2]
    assert goes_on(job, whole) == FILES[:2]


def test_what_a_killed_run_left_is_overwritten(job: QuantizationJob, whole: Path) -> None:
    for name in ("rank0/model-00003-of-00004.unfinished", "config.unfinished"):
        (job.target / name).write_bytes(b"half")
    assert goes_on(job, whole) == FILES[:2]


@pytest.mark.parametrize("change", ["source", "texts", "quantization", "cache", "ranks", "version"])
def test_another_request_is_refused(
    job: QuantizationJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    shutil.copytree(DATA / "moe_tp", tmp_path / "source")
    source = tmp_path / "source" if change == "source" else job.source
    how = {
        "quantization": QuantizationConfig("wint4", has_cache_scales=True),
        "cache": QuantizationConfig("w4a8"),
    }.get(change, job.config)
    texts = [*TEXTS[:-1], [*TEXTS[-1], 5]] if change == "texts" else TEXTS
    ranks = 4 if change == "ranks" else 2
    if change == "version":
        monkeypatch.setattr("ernie_backend.quantization.job._VERSION", 1)
    with pytest.raises(StartError, match="other settings"):
        quantize_checkpoint(QuantizationJob(source, job.target, how, ranks, texts), print)


def test_config_json_comes_last(job: QuantizationJob, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has one is taken for a model."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(Interrupted):
            quantize_checkpoint(job, print)
    there = {path.name for path in job.target.rglob("*")}
    assert {*FILES, "model.safetensors.index.json"} <= there
    assert "config.json" not in there
    assert goes_on(job, whole) == FILES
