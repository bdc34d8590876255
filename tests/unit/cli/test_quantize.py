"""The command quantize: from the arguments to a directory that loads, and how its errors end."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_cli.errors import CommandError
from invoke import invoke
from support.paths import DATA


def test_a_checkpoint_is_made_with_progress(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Hello there\nWhere is the capital of China?\n")
    arguments = ["quantize", str(DATA / "moe_tp"), str(tmp_path / "q"), "--quantization", "w4a8"]
    arguments += ["--kv-cache", "c8", "--tensor-parallel-size", "2", "--calibration", str(texts)]
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "calibration: layer 3 of 3" in result.stdout
    assert "4/4 model-00004-of-00004.safetensors: " in result.stdout
    serve = f"ernie-triton serve --model {tmp_path / 'q'} --tensor-parallel-size 2"
    assert f"q is complete: {serve}\n" in result.stdout
    config = ModelConfig.from_directory(tmp_path / "q")
    assert config.quantization_config == QuantizationConfig("w4a8", has_cache_scales=True)
    assert (tmp_path / "q" / "rank1" / "model.safetensors.index.json").is_file()


def test_what_the_converter_refuses_ends_the_command(tmp_path: Path) -> None:
    arguments = ["quantize", str(DATA / "moe_tp"), str(tmp_path / "q"), "--quantization", "w4a8"]
    result = invoke(*arguments)
    assert isinstance(result.exception, CommandError)
    assert "--calibration" in result.exception.message
    result = invoke("quantize", str(tmp_path), str(tmp_path / "q"), "--quantization", "wint8")
    assert isinstance(result.exception, CommandError)
    assert "config.json" in result.exception.message


@pytest.mark.parametrize(
    "arguments", [["--quantization", "int8"], [], ["--quantization", "wint8", "--kv-cache", "fp8"]]
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str]) -> None:
    result = invoke("quantize", str(DATA / "dense"), str(tmp_path / "q"), *arguments)
    assert result.exit_code == 2
