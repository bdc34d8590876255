"""The command ``ernie-triton quantize``: writes a quantized checkpoint of a float one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.quantization.calibration_texts import read_texts
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_backend.settings.kinds import Choice, Integer
from ernie_backend.weights.precision import QUANTIZATIONS
from ernie_cli.errors import CommandError
from ernie_cli.model.source import find_model
from ernie_frontend.arguments import Parser, checked
from ernie_frontend.log_output import print_line


def quantize(arguments: Sequence[str]) -> None:
    """Write a quantized checkpoint that loads as it is; an interrupted run continues where it stopped."""
    options = _parser().read(arguments)
    directory, texts = find_model(options.source).directory, options.calibration
    try:
        texts = read_texts(texts, directory, ModelConfig.from_directory(directory)) if texts else []
        formats = QuantizationConfig(options.quantization, has_cache_scales=options.kv_cache is not None)
        target, ranks = options.target, options.tensor_parallel_size
        quantize_checkpoint(QuantizationJob(directory, target.expanduser(), formats, ranks, texts), print_line)
    except StartError as error:
        raise CommandError(error.message) from None
    flag = "" if ranks == 1 else f" --tensor-parallel-size {ranks}"
    print_line(f"{target} is complete: ernie-triton serve --model {target}{flag}")


def _parser() -> Parser:
    parser = Parser(
        "ernie-triton quantize",
        "Write a quantized checkpoint that loads as it is; an interrupted run continues where it stopped.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a model directory or a hub id")
    add("target", metavar="TARGET", type=Path, help="the directory to write, empty or absent")
    formats, caches = Choice(QUANTIZATIONS), Choice(("c8",))
    add(
        "--quantization",
        type=checked(formats.read),
        required=True,
        metavar=formats.shown,
        help="format of the weights (required)",
    )
    add(
        "--kv-cache",
        type=checked(caches.read),
        metavar=caches.shown,
        help="with static scales of an int8 KV cache",
    )
    add(
        "--tensor-parallel-size",
        type=checked(Integer(1).read),
        default=1,
        metavar="N",
        help="cut for this many ranks [%(default)s]",
    )
    add(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="texts to measure activations with, for w4a8 and c8: a line each, or .jsonl",
    )
    return parser
