"""FastDeploy's layout, written by its formulas alone: every rank reads its part of what one rank reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.architectures import PADDLE
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.recipes import recipes
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import Shard
from ernie_kernels.formats import W4A8Weight, bfloat16_to_float32, dequantize
from support.checkpoints.fastdeploy_writer import (
    Tensors,
    checkpoint_tensors,
    paddle_tensors,
    quantized,
    write_model,
)
from support.checkpoints.quantized_checkpoints import assert_same
from support.checkpoints.safetensors_writer import read_tensors
from support.paths import DATA

CONFIG = json.loads((DATA / "moe_tp" / "config.json").read_text())
SOURCE = read_tensors(DATA / "moe_tp" / "model.safetensors")
FLOAT = paddle_tensors(SOURCE)
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


def dirty_memory(shape: tuple[int, ...] | int, dtype: Any = np.float64) -> NDArray[Any]:
    filled = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0x42, np.uint8)
    return filled.view(np.dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("quantization", ["wint8", "wint4", "mixed wint8", "mixed wint4", "mixed w4a8"])
def test_every_rank_reads_its_part_of_what_one_rank_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    """Weights that are quantized when they are loaded have scales of whole outputs, whatever was cut."""
    monkeypatch.setattr("ernie_backend.weights.checkpoints.quantized_cache.MIN_BYTES", 0)
    kind = quantization.split()[-1]
    is_mixed = kind != quantization
    config, tensors = (config_of(kind), with_experts(kind)) if is_mixed else (CONFIG, FLOAT)
    whole = write_model(tmp_path / "whole", config, tensors)
    parts = write_model(tmp_path / "cut", config, tensors, ranks=4)
    weights = recipes(ModelConfig.from_directory(whole), PADDLE)
    keys = [key for key in weights if len(weights[key].shape) == 2 and key.role is not Role.ROUTER_BIAS]
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


def rounded(name: str, levels: int) -> NDArray[np.float32]:
    """What the codes of an HF tensor ``[N, K]`` stand for."""
    weight = bfloat16_to_float32(SOURCE[name + ".weight"])
    step = np.abs(weight).max(axis=1, keepdims=True) / np.float32(levels)
    found: NDArray[np.float32] = np.rint(weight / step) * step
    return found


def test_the_numbers_are_those_of_the_formulas(tmp_path: Path) -> None:
    """Codes, their order in a byte, absmax in place of scales, and the order of fused matrices."""
    tensors = with_experts("w4a8")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors |= quantized(name, bfloat16_to_float32(tensors.pop(name)), 127)
    absmax = np.arange(1, 65, dtype=np.float32)
    for layer in range(3):
        for kind, factor in (("k", 1), ("v", 2)):
            tensors[f"ernie.layers.{layer}.self_attn.cache{kind}_matmul.activation_scale"] = factor * absmax
    directory = write_model(tmp_path / "q", config_of("w4a8"), tensors)
    qkv, mlp = [f"model.layers.1.self_attn.{each}_proj" for each in "qkv"], "model.layers.1.mlp.experts.3."
    with opened(directory, "w4a8", Shard()) as weights:
        expected = np.concatenate([rounded(name, 127) for name in qkv])
        np.testing.assert_allclose(dequantize(weights.linear(Role.QKV, 1)), expected, rtol=1e-6)
        gate_up, down = weights.linear(Role.EXPERT_GATE_UP, 1, 3), weights.linear(Role.EXPERT_DOWN, 1, 3)
        scales = weights.cache_scales(1)
    assert isinstance(gate_up, W4A8Weight)
    assert isinstance(down, W4A8Weight)
    expected = np.concatenate([rounded(mlp + "gate_proj", 7), rounded(mlp + "up_proj", 7)])
    np.testing.assert_allclose(dequantize(gate_up.weight), expected, rtol=1e-6)
    np.testing.assert_allclose(dequantize(down.weight), rounded(mlp + "down_proj", 7), rtol=1e-6)
    assert (gate_up.rotation, down.rotation) == (0, 128)
    assert gate_up.input_scale == down.input_scale == np.float32(5) / np.float32(127)
    assert scales is not None
    np.testing.assert_array_equal(scales.keys, (absmax / np.float32(127)).reshape(4, 16))
    np.testing.assert_array_equal(scales.values, (2 * absmax / np.float32(127)).reshape(4, 16))


@pytest.mark.parametrize("quantization", ["wint4", "wint8"])
def test_experts_of_w4a8_are_not_read_as_another_format(tmp_path: Path, quantization: str) -> None:
    """As wint4 they would have the same shapes, and answer with garbage: the inputs would not be rotated."""
    config = config_of(quantization)
    directory = write_model(tmp_path / "q", config, with_experts("w4a8"))
    complaint = rf"experts\.\d\.\w+_proj\.activation_scale .*int{quantization[-1]}: .*moe_quant_type"
    with pytest.raises(StartError, match=complaint):
        opened(directory, quantization, Shard())


@pytest.mark.parametrize("ranks", [1, 4])
def test_experts_that_do_not_undo_the_rotation_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ranks: int
) -> None:
    """So our converter wrote them once: rotated by a matrix that keeps lengths, with its scales."""
    names = [name for name in with_experts("w4a8") if name.endswith(".activation_scale")]
    right = checkpoint_tensors(SOURCE, "w4a8", {name: np.ones(1, np.float32) for name in names})
    wrong = {
        name: values * np.float32(128**0.5) if "down_proj.weight_scale" in name else values
        for name, values in right.items()
    }
    opened(write_model(tmp_path / "right", config_of("w4a8"), right, ranks), "w4a8", Shard()).close()
    assert caplog.messages == []
    opened(write_model(tmp_path / "wrong", config_of("w4a8"), wrong, ranks), "w4a8", Shard()).close()
    assert len(caplog.messages) == 1
    assert re.search(
        r"ernie\.layers\.1\.mlp\.experts\.0\.down_proj\.weight_scale .*1\.\d\d .*up_gate_proj.*0\.09",
        caplog.text,
    )


def test_a_zero_point_that_config_json_does_not_tell_of(tmp_path: Path) -> None:
    name = "ernie.layers.1.self_attn.cachev_matmul.activation_zero_point"
    tensors = {**with_experts("w4a8"), name: np.zeros(64, np.float32)}
    directory = write_model(tmp_path / "q", config_of("w4a8"), tensors)
    with pytest.raises(StartError, match=rf"{name} .*has_zero_point"):
        opened(directory, "w4a8", Shard())


def test_a_rank_opens_the_other_parts_only_to_quantize_them(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "cut", CONFIG, FLOAT, ranks=4)
    for rank in (0, 2, 3):
        (directory / f"rank{rank}" / "model.safetensors").unlink()
    with CheckpointWeights.open(
        directory, ModelConfig.from_directory(directory), "bfloat16", None, None, Shard(1, 4)
    ) as weights:
        weights.linear(Role.DOWN, 0)
