"""Weights of models with experts: both layouts, shards, formats, and what is not read."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.precision import Precision, WeightFormat
from ernie_backend.weights.roles import Role
from ernie_kernels.formats import (
    Bfloat16Weight,
    Float32Weight,
    Int4Weight,
    Int8Weight,
    bfloat16_to_float32,
    dequantize,
    quantize_int4,
)
from support.checkpoints.safetensors_writer import read_tensors, write_shards, write_tensors
from support.paths import DATA

MOE, UNTIED = DATA / "moe", DATA / "moe300b"
BFLOAT16_NAN = 0x7FC0
TENSORS = {name: values for path in MOE.glob("*.safetensors") for name, values in read_tensors(path).items()}


def open_weights(directory: Path, quantization: str | None = None) -> CheckpointWeights:
    config = ModelConfig.from_directory(directory)
    return CheckpointWeights.open(directory, config, "bfloat16", quantization)


def matrix(weights: CheckpointWeights, role: Role, layer: int, expert: int = 0) -> NDArray[np.float32]:
    return dequantize(weights.linear(role, layer, expert))


@pytest.mark.parametrize(
    ("name", "role", "output"),
    [
        ("layers.1.mlp.gate.weight", Role.ROUTER, 15),
        ("layers.1.mlp.moe_statics.e_score_correction_bias", Role.ROUTER_BIAS, 15),
        ("embed_tokens.weight", Role.EMBEDDING, 639),
    ],
)
def test_what_would_spoil_some_answers_is_refused(tmp_path: Path, name: str, role: Role, output: int) -> None:
    """A router would choose experts by the order of comparisons with NaN; a token may be rare."""
    name = "model." + name
    values = TENSORS[name].copy()
    values.flat[-1] = np.nan if values.dtype == np.float32 else BFLOAT16_NAN
    write_shards(tmp_path, TENSORS | {name: values}, 2)
    shutil.copyfile(MOE / "config.json", tmp_path / "config.json")
    with open_weights(tmp_path) as weights:
        read = weights.vector if role is Role.ROUTER_BIAS else weights.linear
        with pytest.raises(StartError, match=f"{name} .*finite.* {output}"):
            read(role, 0 if role is Role.EMBEDDING else 1)


@pytest.mark.parametrize("name", ["moe", "moe300b"])
def test_both_layouts_hold_the_same_experts(name: str) -> None:
    config = ModelConfig.from_directory(DATA / name)
    assert config.moe is not None
    roles = [(Role.ROUTER, 1), (Role.EXPERT_GATE_UP, config.moe.num_experts)]
    roles.append((Role.EXPERT_DOWN, config.moe.num_experts))
    if config.moe.num_shared_experts:
        roles += [(Role.SHARED_GATE_UP, 1), (Role.SHARED_DOWN, 1)]
    with open_weights(DATA / name) as found, open_weights(DATA / f"{name}-Paddle") as expected:
        for layer in filter(config.has_experts, range(config.num_layers)):
            bias = found.vector(Role.ROUTER_BIAS, layer)
            assert bias.shape == (config.moe.num_experts,)
            np.testing.assert_array_equal(bias, expected.vector(Role.ROUTER_BIAS, layer))
            for role, count in roles:
                for expert in range(count):
                    values = matrix(expected, role, layer, expert)
                    np.testing.assert_array_equal(matrix(found, role, layer, expert), values)


def test_experts_and_router_are_the_tensors_of_the_files() -> None:
    with open_weights(MOE) as weights:
        gate_up = weights.linear(Role.EXPERT_GATE_UP, 2, 11)
        router = weights.linear(Role.ROUTER, 3)
        down = matrix(weights, Role.SHARED_DOWN, 1)
    assert isinstance(gate_up, Bfloat16Weight)
    mlp = "model.layers.2.mlp.experts.11."
    np.testing.assert_array_equal(gate_up.bits[:24], TENSORS[mlp + "gate_proj.weight"])
    np.testing.assert_array_equal(gate_up.bits[24:], TENSORS[mlp + "up_proj.weight"])
    assert isinstance(router, Float32Weight)
    np.testing.assert_array_equal(router.values, TENSORS["model.layers.3.mlp.gate.weight"])
    shared = TENSORS["model.layers.1.mlp.shared_experts.down_proj.weight"]
    np.testing.assert_array_equal(down, bfloat16_to_float32(shared.view(np.uint16)))


def test_wint4_is_int4_for_routed_experts_and_int8_for_the_rest() -> None:
    with open_weights(MOE, "wint4") as weights, open_weights(MOE) as exact:
        expert = weights.linear(Role.EXPERT_DOWN, 1, 3)
        assert isinstance(expert, Int4Weight)
        np.testing.assert_array_equal(
            expert.packed, quantize_int4(matrix(exact, Role.EXPERT_DOWN, 1, 3)).packed
        )
        for role, layer in ((Role.QKV, 1), (Role.SHARED_GATE_UP, 1), (Role.DOWN, 0), (Role.EMBEDDING, 0)):
            assert isinstance(weights.linear(role, layer), Int8Weight)
        assert isinstance(weights.linear(Role.ROUTER, 1), Float32Weight)


@pytest.mark.parametrize("quantization", [None, "wint8", "wint4"])
def test_a_router_is_never_rounded(quantization: str | None) -> None:
    assert Precision("bfloat16", quantization, is_tied=True).format_of(Role.ROUTER) is WeightFormat.FLOAT32


def test_quantized_experts_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_backend.weights.checkpoints.quantized_cache.MIN_BYTES", 1)
    config = ModelConfig.from_directory(MOE)
    found = []
    for _ in range(2):
        with CheckpointWeights.open(MOE, config, "bfloat16", "wint4", tmp_path) as weights:
            found.append([weights.linear(Role.EXPERT_DOWN, 1, expert) for expert in (0, 15)])
        monkeypatch.setattr(
            "ernie_backend.weights.loader.quantize_int4", None
        )  # the second time nobody calls it
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(dequantize(first), dequantize(second))


def test_shards_and_unread_tensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(MOE / "config.json", tmp_path)
    mtp = {"model.mtp_block.0.mlp.down_proj.weight": np.zeros((2, 2), np.float32)}
    write_shards(tmp_path, TENSORS | mtp, 3)
    with caplog.at_level(logging.WARNING), open_weights(tmp_path) as weights, open_weights(MOE) as expected:
        values = matrix(expected, Role.EXPERT_GATE_UP, 3, 15)
        np.testing.assert_array_equal(matrix(weights, Role.EXPERT_GATE_UP, 3, 15), values)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("model.layers.1.mlp.experts.7.up_proj.weight", None, "experts.7.up_proj.weight is missing"),
        (
            "model.layers.2.mlp.moe_statics.e_score_correction_bias",
            np.zeros((16, 1), np.float32),
            r"\[16, 1\].*\[1, 16\]",
        ),
        (
            "model.layers.2.mlp.gate.weight",
            np.zeros((80, 16), np.float32),
            r"\[80, 16\].*\[16, 80\]",
        ),
    ],
)
def test_what_is_missing_or_misshapen(
    tmp_path: Path, name: str, values: NDArray[np.float32] | None, complaint: str
) -> None:
    tensors = {**TENSORS, name: values} if values is not None else dict(TENSORS)
    if values is None:
        del tensors[name]
    write_tensors(tmp_path / "model.safetensors", tensors)
    shutil.copy(MOE / "config.json", tmp_path)
    with pytest.raises(StartError, match=complaint):
        open_weights(tmp_path)


def test_a_config_of_other_experts_does_not_fit(tmp_path: Path) -> None:
    shutil.copytree(UNTIED, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"moe_num_experts": 9}))
    with pytest.raises(StartError, match=r"experts\.8\.down_proj\.weight and 5 more"):
        open_weights(tmp_path / "model")
