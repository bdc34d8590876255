"""What a conversion refuses, and how it ends when something is wrong with source, target or texts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.lock import TargetLock
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_kernels.formats import float32_to_bfloat16
from support.checkpoints.quantized_checkpoints import TEXTS, assert_same_files, make
from support.checkpoints.safetensors_writer import read_tensors, write_tensors
from support.paths import DATA


@pytest.mark.parametrize(
    ("source", "how", "ranks", "texts", "complaint"),
    [
        (
            "dense",
            QuantizationConfig("w4a8"),
            1,
            TEXTS,
            "w4a8 .*wint8",
        ),
        ("moe_tp", QuantizationConfig("w4a8"), 1, [], "--calibration"),
        ("dense", QuantizationConfig("wint8", has_cache_scales=True), 1, [], "KV cache"),
        (
            "moe_tp",
            QuantizationConfig("wint8"),
            3,
            [],
            "tensor_parallel_size is 3",
        ),
        (
            "moe",
            QuantizationConfig("w4a8"),
            1,
            TEXTS,
            "128 .* 24",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, source: str, how: QuantizationConfig, ranks: int, texts: list[list[int]], complaint: str
) -> None:
    with pytest.raises(StartError, match=complaint):
        quantize_checkpoint(QuantizationJob(DATA / source, tmp_path / "q", how, ranks, texts), print)
    assert not (tmp_path / "q").exists()


def test_source_and_target(tmp_path: Path) -> None:
    quantized = make("dense", tmp_path / "q", "wint8")
    how = QuantizationConfig("wint8")
    with pytest.raises(StartError, match="wint8"):
        quantize_checkpoint(QuantizationJob(quantized, tmp_path / "again", how), print)
    with pytest.raises(StartError, match="complete"):
        quantize_checkpoint(QuantizationJob(DATA / "dense", quantized, how), print)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StartError, match="not empty"):
        quantize_checkpoint(QuantizationJob(DATA / "dense", tmp_path, how), print)
    with pytest.raises(StartError, match="source"):
        quantize_checkpoint(QuantizationJob(DATA / "dense", DATA / "dense", how), print)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("file", "file is a file"),
        ("file/below", "file/below .*Not a directory"),
        ("/proc/q", "/proc/q .*No such file"),
    ],
)
def test_a_target_that_cannot_be_made(tmp_path: Path, target: str, complaint: str) -> None:
    (tmp_path / "file").touch()
    job = QuantizationJob(DATA / "dense", tmp_path / target, QuantizationConfig("wint8"))
    with pytest.raises(StartError, match=complaint):
        quantize_checkpoint(job, print)


@pytest.mark.parametrize(
    "name",
    ["model-00003-of-00004.unfinished", "config.unfinished", "calibration.unfinished", "tokenizer.model"],
)
def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(tmp_path: Path, name: str) -> None:
    target, expected = tmp_path / "q", make("dense", tmp_path / "whole", "wint8", has_cache_scales=True)
    job = QuantizationJob(DATA / "dense", target, QuantizationConfig("wint8", has_cache_scales=True), 1, TEXTS)
    with TargetLock(target, job.identity()):
        (target / name).symlink_to("/dev/full")
    complaint = "No space left on device"
    with pytest.raises(StartError, match=complaint):
        quantize_checkpoint(job, print)
    assert list(target.glob("*.unfinished")) == []
    (target / name).unlink(missing_ok=True)
    quantize_checkpoint(job, print)
    assert_same_files(target, expected)


def test_a_marker_that_was_not_written_whole_is_written_again(tmp_path: Path) -> None:
    job = QuantizationJob(DATA / "dense", tmp_path / "q", QuantizationConfig("wint8"))
    job.target.mkdir()
    marker = job.target / "conversion.json"
    marker.write_text('{"how": ')
    quantize_checkpoint(job, print)
    assert (job.target / "config.json").is_file()
    assert not marker.exists()
    marker.touch()
    with pytest.raises(StartError, match=r"conversion\.json is damaged"):
        quantize_checkpoint(job, print)


def test_two_runs_never_write_into_one_target(tmp_path: Path) -> None:
    job = QuantizationJob(DATA / "dense", tmp_path / "q", QuantizationConfig("wint8"))
    with TargetLock(job.target, job.identity()):
        with pytest.raises(StartError, match="another run"):
            quantize_checkpoint(job, print)
        assert [path.name for path in job.target.iterdir()] == ["conversion.json"]
    quantize_checkpoint(job, print)


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("embed_tokens.weight", "wint8"),
        ("layers.1.mlp.experts.3.up_proj.weight", "wint4"),
        ("layers.1.mlp.experts.3.down_proj.weight", "w4a8"),
        ("embed_tokens.weight", "w4a8"),
        ("layers.0.self_attn.k_proj.weight", "w4a8"),
        ("layers.2.mlp.moe_statics.e_score_correction_bias", "wint8"),
        ("norm.weight", "wint8"),
    ],
)
@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_a_source_that_is_not_finite_is_refused(
    tmp_path: Path, name: str, quantization: str, wrong: float
) -> None:
    """With the name of its tensor; a NaN in the embedding is no expert that nobody chose."""
    tensors = read_tensors(DATA / "moe_tp" / "model.safetensors")
    values = tensors["model." + name].copy()
    place = (5, 7) if values.ndim == 2 and len(values) > 1 else (..., 3)
    values[place] = (
        wrong if values.dtype == np.float32 else float32_to_bfloat16(np.full(1, wrong, np.float32))[0]
    )
    source = tmp_path / "source"
    shutil.copytree(DATA / "moe_tp", source)
    write_tensors(source / "model.safetensors", tensors | {"model." + name: values})
    texts = [[1, 5, 2]]
    how = QuantizationConfig(quantization)
    output = place[0] if len(values) > 1 and values.ndim == 2 else 3
    complaint = f"model.{name} .*finite.* {output};"
    with pytest.raises(StartError, match=complaint):
        quantize_checkpoint(QuantizationJob(source, tmp_path / "q", how, 1, texts), print)
    assert not (tmp_path / "q" / "config.json").exists()


def test_texts_that_a_model_makes_infinite_are_refused(tmp_path: Path) -> None:
    tensors = read_tensors(DATA / "moe_tp" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    huge = float32_to_bfloat16(np.full(tensors[name].shape, 3e38, np.float32))
    shutil.copytree(DATA / "moe_tp", tmp_path / "source")
    write_tensors(tmp_path / "source" / "model.safetensors", tensors | {name: huge})
    how = QuantizationConfig("wint8", has_cache_scales=True)
    with pytest.raises(StartError, match=r"layer 1 .*finite"):
        quantize_checkpoint(QuantizationJob(tmp_path / "source", tmp_path / "q", how, 1, TEXTS), print)
