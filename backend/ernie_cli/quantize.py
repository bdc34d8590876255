"""The command ``ernie-triton quantize``: writes a quantized checkpoint of a float one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.quantization.calibration_texts import read_texts
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_cli.errors import CommandError
from ernie_cli.model.source import find_model


class Quantization(str, Enum):
    """Formats of weights."""

    WINT8 = "wint8"
    WINT4 = "wint4"
    W4A8 = "w4a8"


class KvCache(str, Enum):
    """Formats of the KV cache for which a checkpoint has scales."""

    C8 = "c8"


def quantize(
    source: Annotated[str, typer.Argument(help="a model directory or a hub id")],
    target: Annotated[Path, typer.Argument(help="the directory to write, empty or absent")],
    quantization: Annotated[Quantization, typer.Option(help="format of the weights")],
    kv_cache: Annotated[KvCache | None, typer.Option(help="c8: with static scales of an int8 KV cache")] = None,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="cut for this many ranks")] = 1,
    calibration: Annotated[
        Path | None,
        typer.Option(help="texts to measure activations with, for w4a8 and c8: a line each, or .jsonl"),
    ] = None,
) -> None:
    """Write a quantized checkpoint that loads as it is; an interrupted run continues where it stopped."""
    directory = find_model(source).directory
    try:
        texts = read_texts(calibration, directory, ModelConfig.from_directory(directory)) if calibration else []
        formats = QuantizationConfig(quantization.value, has_cache_scales=kv_cache is not None)
        job = QuantizationJob(directory, target.expanduser(), formats, tensor_parallel_size, texts)
        quantize_checkpoint(job, typer.echo)
    except StartError as error:
        raise CommandError(error.message) from None
    ranks = "" if tensor_parallel_size == 1 else f" --tensor-parallel-size {tensor_parallel_size}"
    typer.echo(f"{target} is complete: ernie-triton serve --model {target}{ranks}")
