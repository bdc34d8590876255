"""Weights of models with vision: names and layouts, what is whole on every rank, the formats of towers."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.weights.dummy import DummyWeights
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.recipes import recipes
from ernie_backend.weights.roles import Role, WeightKey
from ernie_backend.weights.sharding import Shard
from ernie_kernels.formats import Bfloat16Weight, Float32Weight, Int4Weight, Int8Weight, dequantize
from support.checkpoints.paddle_layout import tensors_of
from support.checkpoints.quantized_checkpoints import assert_same
from support.checkpoints.safetensors_writer import write_tensors
from support.paths import DATA

NAMES = ("vl_moe", "vl_moe-Paddle", "paddleocr_vl")


def opened(directory: Path, quantization: str | None = None, shard: Shard | None = None) -> CheckpointWeights:
    config = ModelConfig.from_directory(directory)
    return CheckpointWeights.open(directory, config, "bfloat16", quantization, shard=shard)


def keys_of(directory: Path) -> list[WeightKey]:
    config = ModelConfig.from_directory(directory)
    return list(recipes(config, ARCHITECTURES[config.architecture].layouts[0]))


def assert_equal(found: CheckpointWeights, expected: CheckpointWeights, key: WeightKey) -> None:
    if key.role.is_vector:
        np.testing.assert_array_equal(found.vector(*key[:2]), expected.vector(*key[:2]))
    else:
        assert_same(found.linear(*key), expected.linear(*key))


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_checkpoint_is_used(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), opened(DATA / name) as weights:
        assert not caplog.records
        used = {tensor.name for recipe in weights._recipes.values() for tensor in recipe.tensors}
        assert used == set(tensors_of(DATA / name))


def test_both_layouts_have_the_same_weights() -> None:
    with opened(DATA / "vl_moe") as found, opened(DATA / "vl_moe-Paddle") as expected:
        for key in keys_of(DATA / "vl_moe"):
            assert_equal(found, expected, key)


def test_a_tower_may_be_named_as_transformers_saves_it(tmp_path: Path) -> None:
    shutil.copy(DATA / "vl_moe" / "config.json", tmp_path)
    tensors = tensors_of(DATA / "vl_moe")
    for name in list(tensors):
        if name.startswith("vision_model."):
            tensors[f"model.{name}"] = tensors.pop(name)
    write_tensors(tmp_path / "model.safetensors", tensors)
    with opened(tmp_path) as found, opened(DATA / "vl_moe") as expected:
        for key in keys_of(tmp_path):
            assert_equal(found, expected, key)


def test_what_the_weights_are_made_of() -> None:
    """Against the files: orientations, order of queries, keys and values, a convolution as a matrix."""
    stored = tensors_of(DATA / "vl_moe")
    with opened(DATA / "vl_moe") as weights:
        gate = weights.linear(Role.VISION_ROUTER, 1)
        assert isinstance(gate, Float32Weight)
        np.testing.assert_array_equal(gate.values, stored["model.layers.1.mlp.gate.weight_1"].T)
        assert [bank.experts_per_token for bank in (each.router for each in weights.moe(1).banks)] == [3, 3]
        down = weights.linear(Role.EXPERT_DOWN, 2, 9)
        assert isinstance(down, Bfloat16Weight)
        np.testing.assert_array_equal(down.bits, stored["model.layers.2.mlp.experts.9.down_proj.weight"])
        assert down.bits.shape == (64, 16)
        biases = stored["model.layers.3.mlp.moe_statics.e_score_correction_bias"]
        for bank, bias in zip(weights.moe(3).banks, biases, strict=True):
            np.testing.assert_array_equal(bank.router.correction_bias, bias)
    stored, tower = tensors_of(DATA / "paddleocr_vl"), "visual.vision_model."
    with opened(DATA / "paddleocr_vl") as weights:
        patch = weights.linear(Role.VISION_PATCH)
        assert isinstance(patch, Bfloat16Weight)
        kernel = stored[f"{tower}embeddings.patch_embedding.weight"]
        np.testing.assert_array_equal(patch.bits, kernel.reshape(48, 588))
        qkv = weights.linear(Role.VISION_QKV, 1)
        assert isinstance(qkv, Bfloat16Weight)
        parts = [stored[f"{tower}encoder.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
        np.testing.assert_array_equal(qkv.bits, np.concatenate(parts))
        assert weights.vector(Role.VISION_POSITIONS).shape == (36 * 48,)


@pytest.mark.parametrize("quantization", ["wint8", "wint4"])
def test_towers_stay_bfloat16_and_routers_float32(quantization: str) -> None:
    with opened(DATA / "vl_moe", quantization) as weights:
        for key in keys_of(DATA / "vl_moe"):
            if key.role.is_tower and not key.role.is_vector:
                assert isinstance(weights.linear(*key), Bfloat16Weight), key
        assert isinstance(weights.linear(Role.VISION_ROUTER, 1), Float32Weight)
        expert = weights.linear(Role.EXPERT_GATE_UP, 1, 15)
        assert isinstance(expert, Int8Weight if quantization == "wint8" else Int4Weight)


@pytest.mark.parametrize("name", NAMES)
def test_ranks_have_whole_towers_and_parts_of_all_experts(name: str) -> None:
    with opened(DATA / name) as whole, opened(DATA / name, shard=Shard(1, 2)) as part:
        for key in keys_of(DATA / name):
            if key.role.is_tower:
                assert_equal(part, whole, key)
            elif key.role is Role.EXPERT_DOWN:
                expected = dequantize(whole.linear(*key))
                half = expected.shape[1] // 2
                np.testing.assert_array_equal(dequantize(part.linear(*key)), expected[:, half:])


def test_ranks_that_share_experts_have_some_of_each_bank() -> None:
    with (
        opened(DATA / "vl_moe", shard=Shard(1, 2, is_expert_parallel=True)) as part,
        opened(DATA / "vl_moe") as whole,
    ):
        for number, bank in enumerate(part.moe(1).banks):
            assert bank.local_experts == range(4, 8)
            for expert, weights in zip(range(4, 8), bank.experts, strict=True):
                expected = whole.linear(Role.EXPERT_DOWN, 1, 8 * number + expert)
                assert_same(weights.down, expected)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_have_the_shapes_of_the_checkpoint(name: str) -> None:
    config = ModelConfig.from_directory(DATA / name)
    random = DummyWeights(config, "bfloat16", "wint8")
    with opened(DATA / name, "wint8") as weights:
        for key in keys_of(DATA / name):
            if key.role.is_vector:
                assert random.vector(*key[:2]).shape == weights.vector(*key[:2]).shape
            else:
                found, expected = random.linear(*key), weights.linear(*key)
                assert type(found) is type(expected)
                assert dequantize(found).shape == dequantize(expected).shape


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("vl_moe", QuantizationConfig("w4a8")),
        ("vl_moe", QuantizationConfig("wint4", has_cache_scales=True)),
        ("paddleocr_vl", QuantizationConfig("wint8", has_cache_scales=True)),
    ],
)
def test_what_texts_cannot_measure_is_refused(tmp_path: Path, name: str, how: QuantizationConfig) -> None:
    job = QuantizationJob(DATA / name, tmp_path / "q", how, texts=[[1, 2]])
    with pytest.raises(StartError, match=r"texts.*images.* wint4.*--kv-cache-dtype int8"):
        job.check(ModelConfig.from_directory(DATA / name))


def test_a_missing_tensor_of_a_tower_is_named(tmp_path: Path) -> None:
    shutil.copy(DATA / "paddleocr_vl" / "config.json", tmp_path)
    tensors = tensors_of(DATA / "paddleocr_vl")
    del tensors["mlp_AR.linear_2.bias"]
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(StartError, match=r"mlp_AR\.linear_2\.bias is missing"):
        opened(tmp_path)


def test_what_a_released_tower_does_not_use_is_ignored_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(DATA / "paddleocr_vl" / "config.json", tmp_path)
    tensors = tensors_of(DATA / "paddleocr_vl")
    for name in ("head.attention.in_proj_bias", "embeddings.packing_position_embedding.weight"):
        tensors[f"visual.vision_model.{name}"] = np.zeros(3, np.uint16)
    write_tensors(tmp_path / "model.safetensors", tensors)
    with caplog.at_level(logging.WARNING), opened(tmp_path):
        assert not caplog.records


@pytest.mark.parametrize(
    ("name", "fields", "complaint"),
    [
        ("vl_moe-Paddle", {"freq_allocation": 9}, "freq_allocation 9 does not fit the 8 pairs"),
        ("vl_moe-Paddle", {"freq_allocation": 3}, r"freq_allocation 3 .*\[3, 3, 2\]"),
        ("vl_moe-Paddle", {"rope_scaling": {"mrope_section": [3, 3]}}, "mrope_section"),
        ("vl_moe-Paddle", {"rope_scaling": {"mrope_section": [3, 3, 3]}}, r"mrope_section .*, 8; found"),
        ("vl_moe-Paddle", {"rope_scaling": 3}, "rope_scaling must be an object"),
        ("vl_moe-Paddle", {"moe_num_experts": [8, 4]}, "8 and 4"),
        ("vl_moe-Paddle", {"moe_layer_start_index": [1, 2]}, r"range\(1, 4\) and range\(2, 4\)"),
        ("paddleocr_vl", {"text_config": {"head_dim": 16}}, "is missing"),
        ("paddleocr_vl", {"text_config": 3}, "text_config must be an object"),
    ],
)
def test_a_wrong_config_names_the_field(
    tmp_path: Path, name: str, fields: dict[str, object], complaint: str
) -> None:
    config = json.loads((DATA / name / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(StartError, match=complaint):
        ModelConfig.from_directory(tmp_path)


def test_axes_of_the_released_models(tmp_path: Path) -> None:
    """Which config.json says, or leaves out."""
    config = json.loads((DATA / "vl_moe-Paddle" / "config.json").read_text())
    del config["freq_allocation"], config["rope_scaling"]
    for more in ({}, {"freq_allocation": 20}, {"rope_parameters": {"mrope_section": [22, 22, 20]}}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **more, "head_dim": 128}))
        assert ModelConfig.from_directory(tmp_path).rotary_axes == (1, 2) * 22 + (0,) * 20
    config = json.loads((DATA / "paddleocr_vl" / "config.json").read_text())
    config["text_config"] |= {"head_dim": 128, "rope_parameters": {"rope_theta": 500000.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ModelConfig.from_directory(tmp_path).rotary_axes == (0,) * 16 + (1,) * 24 + (2,) * 24
