"""FastDeploy's layout, written by its formulas alone: every rank reads its part of what one rank reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.names import paddle_recipes
from ernie_backend.weights.roles import Role
from ernie_backend.weights.shard import Shard
from ernie_kernels.formats import bfloat16_to_float32
from unit.backend.converted import DATA, assert_same
from unit.backend.fastdeploy_writer import Tensors, paddle_tensors, quantized, write_model
from unit.backend.safetensors_writer import read_tensors

CONFIG = json.loads((DATA / "moe_tp" / "config.json").read_text())
FLOAT = paddle_tensors(read_tensors(DATA / "moe_tp" / "model.safetensors"))
MIXED = {
    "quantization": "mix_quant",
    "dense_quant_type": "wint8",
    "moe_quant_type": "w4a8",
    "is_moe_quantized": True,
    "is_permuted": False,
}
"""The experts were quantized before, nothing else."""


def with_experts(moe_quant_type: str) -> Tensors:
    """The tensors of moe_tp, its experts quantized; those of w4a8 are taken for rotated."""
    tensors: Tensors = {}
    for name, values in FLOAT.items():
        if ".experts." not in name:
            tensors[name] = values
            continue
        levels = 127 if moe_quant_type == "wint8" else 7
        tensors |= quantized(name, bfloat16_to_float32(values), levels)
        if moe_quant_type == "w4a8":
            absmax = 2 + int(name.split(".")[5])
            tensors[name.removesuffix("weight") + "activation_scale"] = np.array([absmax], np.float32)
    return tensors


def config_of(moe_quant_type: str) -> dict[str, Any]:
    return {**CONFIG, "quantization_config": MIXED | {"moe_quant_type": moe_quant_type}}


def opened(directory: Path, quantization: str, shard: Shard, cache: Path | None = None) -> CheckpointWeights:
    config = ModelConfig.from_directory(directory)
    return CheckpointWeights.open(directory, config, "bfloat16", quantization, cache, shard)


def dirty_memory(shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    filled = np.full(math.prod(shape) * np.dtype(dtype).itemsize, 0x42, np.uint8)
    return filled.view(np.dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("quantization", ["wint8", "wint4", "mixed wint8", "mixed wint4", "mixed w4a8"])
def test_every_rank_reads_its_part_of_what_one_rank_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    """Weights that are quantized when they are loaded have scales of whole outputs, whatever was cut."""
    monkeypatch.setattr("ernie_backend.weights.quantized_cache.MIN_BYTES", 0)
    kind = quantization.split()[-1]
    is_mixed = kind != quantization
    config, tensors = (config_of(kind), with_experts(kind)) if is_mixed else (CONFIG, FLOAT)
    whole = write_model(tmp_path / "whole", config, tensors)
    parts = write_model(tmp_path / "cut", config, tensors, ranks=4)
    recipes = paddle_recipes(ModelConfig.from_directory(whole))
    keys = [key for key in recipes if len(recipes[key].shape) == 2 and key.role is not Role.ROUTER_BIAS]
    monkeypatch.setattr(np, "empty", dirty_memory)
    for start in range(2):  # the second one finds what was kept
        for rank in range(4):
            shard = Shard(rank, 4)
            with opened(whole, kind, shard) as expected, opened(parts, kind, shard, tmp_path / "c") as found:
                for key in keys:
                    assert_same(found.linear(*key), expected.linear(*key))
        assert start or any((tmp_path / "c").rglob("down.*"))
    with opened(whole, kind, Shard()) as expected, opened(parts, kind, Shard()) as found:
        for key in keys:
            assert_same(found.linear(*key), expected.linear(*key))


def test_a_rank_opens_the_other_parts_only_to_quantize_them(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "cut", CONFIG, FLOAT, ranks=4)
    for rank in (0, 2, 3):
        (directory / f"rank{rank}" / "model.safetensors").unlink()
    with CheckpointWeights.open(
        directory, ModelConfig.from_directory(directory), "bfloat16", None, None, Shard(1, 4)
    ) as weights:
        weights.linear(Role.DOWN, 0)
