"""Quantized checkpoints: what is written is what loading the float one would make, and is read as it is."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_backend.config.architectures import ARCHITECTURES, PADDLE
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.quantization import calibration
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_backend.weights.checkpoints.prequantized import quantized_tensors, read_stored, stored_weight
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.precision import WeightFormat
from ernie_backend.weights.recipes import CheckpointTensor, Recipe, recipes
from ernie_backend.weights.roles import Role, WeightKey
from ernie_backend.weights.sharding import Part, Shard, part_of
from ernie_kernels.formats import (
    QuantizedWeight,
    W4A8Weight,
    bfloat16_to_float32,
    dequantize,
    float32_to_bfloat16,
    quantize_grouped_int4,
    quantize_int4,
    quantize_int8,
    quantize_w4a8,
)
from support.checkpoints.quantized_checkpoints import TEXTS, assert_same, make
from support.checkpoints.safetensors_writer import read_tensors
from support.paths import DATA


def opened(directory: Path, quantization: str | None = None) -> CheckpointWeights:
    config = ModelConfig.from_directory(directory)
    stored = config.quantization_config
    return CheckpointWeights.open(
        directory, config, "bfloat16", stored.quantization if stored else quantization
    )


@pytest.mark.parametrize(
    ("source", "quantization", "ranks"),
    [
        ("dense", "wint8", 1),
        ("dense-Paddle", "wint8", 2),
        ("moe", "wint4", 1),
        ("moe300b-Paddle", "wint8", 1),
        ("moe300b", "wint4", 2),
        ("moe_tp", "wint4", 4),
        ("dense", "wint4_all", 1),
        ("moe_tp", "wint4_all", 2),
        ("vl_moe", "wint4", 1),
        ("vl_moe-Paddle", "wint8", 2),
        ("paddleocr_vl", "wint8", 2),
    ],
)
def test_a_converted_checkpoint_has_the_weights_that_loading_would_make(
    tmp_path: Path, source: str, quantization: str, ranks: int
) -> None:
    target = make(source, tmp_path / "q", quantization, ranks=ranks)
    config = ModelConfig.from_directory(target)
    assert config.quantization_config == QuantizationConfig(quantization)
    with opened(target) as found, opened(DATA / source, quantization) as expected:
        for key in recipes(config, ARCHITECTURES[config.architecture].layouts[-1]):
            if not key.role.is_vector:
                assert_same(found.linear(*key), expected.linear(*key))
            else:
                np.testing.assert_array_equal(
                    found.vector(key.role, key.layer), expected.vector(key.role, key.layer)
                )


@pytest.mark.parametrize(
    ("source", "quantization", "role"),
    [
        ("dense", "wint8", Role.EMBEDDING),
        ("moe", "wint4", Role.EMBEDDING),
        ("moe_tp", "wint8", Role.HEAD),
        ("moe_tp", "w4a8", Role.HEAD),
    ],
)
def test_exactly_the_head_is_quantized_when_a_converted_checkpoint_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, quantization: str, role: Role
) -> None:
    """FastDeploy's layout has it in bfloat16; where it is tied, it is the embedding."""
    target = make(source, tmp_path / "q", quantization, ranks=2 if source == "moe_tp" else 1)
    config, found = ModelConfig.from_directory(target), []
    quantize = CheckpointWeights._quantize

    def quantized(self: CheckpointWeights, key: WeightKey, kept: WeightFormat, part: Part) -> QuantizedWeight:
        found.append(key)
        return quantize(self, key, kept, part)

    monkeypatch.setattr(CheckpointWeights, "_quantize", quantized)
    with opened(target) as weights:
        for key, recipe in recipes(config, PADDLE).items():
            if len(recipe.shape) == 2 and key.role is not Role.ROUTER_BIAS:
                weights.linear(*key)
    assert found == [WeightKey(role)]


def test_w4a8_is_rotated_and_measured(tmp_path: Path) -> None:
    """The scales are those of float32 inputs; the weights those of rotated columns."""
    target = make("moe_tp", tmp_path / "q", "w4a8", has_cache_scales=True)
    config = ModelConfig.from_directory(target)
    assert config.quantization_config == QuantizationConfig("w4a8", has_cache_scales=True)
    with opened(target) as found, opened(DATA / "moe_tp") as source:
        for role, rotation in ((Role.EXPERT_GATE_UP, 0), (Role.EXPERT_DOWN, 128)):
            weight = found.linear(role, 1, 3)
            assert isinstance(weight, W4A8Weight)
            assert 0.01 < weight.input_scale < 1
            expected = quantize_w4a8(dequantize(source.linear(role, 1, 3)), 1.0, rotation)
            assert_same(weight.weight, expected.weight)
            assert weight.rotation == rotation
        scales = found.cache_scales(2)
        assert scales is not None
        assert scales.keys.shape == (4, 16)
        assert ((scales.keys > 0) & (scales.values > 0)).all()


def test_an_expert_that_no_text_reaches_takes_the_largest_of_its_layer(tmp_path: Path) -> None:
    lines: list[str] = []
    how = QuantizationConfig("w4a8")
    quantize_checkpoint(QuantizationJob(DATA / "moe_tp", tmp_path / "q", how, 1, [[5]]), lines.append)
    assert "notice: layer 2: 2 of 4 experts" in "\n".join(lines)
    with opened(tmp_path / "q") as weights:
        experts = [weights.linear(Role.EXPERT_DOWN, 1, expert) for expert in range(4)]
    scales = [weight.input_scale for weight in experts if isinstance(weight, W4A8Weight)]
    assert sorted(scales)[-3] == max(scales)


def test_an_expert_that_saw_zeros_only_takes_the_largest_too() -> None:
    """A scale of 0 is refused at load; a layer without experts has nothing to fill."""
    gate_up = np.array([[-1, -1, -1], [2, 3, 4]], np.float32)
    down = np.array([[-1, -1, -1], [0, 5, 1]], np.float32)
    filled, notices = calibration.Calibration(gate_up, down, gate_up, gate_up).filled()
    np.testing.assert_array_equal(filled.down, [[-1, -1, -1], [5, 5, 1]])
    np.testing.assert_array_equal(filled.gate_up, gate_up)
    assert notices == []


def test_memory_is_that_of_some_tensors(tmp_path: Path) -> None:
    source = DATA / "moe_tp"
    largest = 1024 * 128 * 4  # an expert's gate and up in float32
    tracemalloc.start()
    try:
        make("moe_tp", tmp_path / "q", "wint4")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * largest < (source / "model.safetensors").stat().st_size


def test_memory_of_texts_is_that_of_their_hidden_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 numbers for each token; only some texts at a time go through a layer."""
    monkeypatch.setattr(calibration, "_BLOCK_TOKENS", 256)
    how, peaks = QuantizationConfig("w4a8", has_cache_scales=True), []
    for count in (20, 60):
        texts = [[3 + (5 * text + token) % 500 for token in range(64)] for text in range(count)]
        job = QuantizationJob(DATA / "moe_tp", tmp_path / str(count), how, 1, texts)
        tracemalloc.start()
        try:
            quantize_checkpoint(job, lambda line: None)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[0] < 4 * (1024 * 4) * 256  # of a block, gate and up
    assert peaks[1] - peaks[0] < 2 * (128 * 4) * (64 * 40)


def test_what_is_measured_is_absmax_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of the first layer, computed once more; and the same numbers however many blocks there are."""
    config = ModelConfig.from_directory(DATA / "moe_tp")
    tensors = read_tensors(DATA / "moe_tp" / "model.safetensors")
    norm, product, x = (
        bfloat16_to_float32(tensors[f"model.{name}.weight"])
        for name in ("layers.0.input_layernorm", "layers.0.self_attn.v_proj", "embed_tokens")
    )
    x = x[np.concatenate(TEXTS)]
    values = (x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * norm) @ product.T
    found = []
    with CheckpointWeights.open(DATA / "moe_tp", config, "float32", None) as weights:
        for tokens in (1, 90, 9999):
            monkeypatch.setattr(calibration, "_BLOCK_TOKENS", tokens)
            found.append(calibration.calibrate(weights, config, TEXTS, 128, None, lambda state: None))
    np.testing.assert_allclose(found[0].values[0], np.abs(values).max(axis=0), rtol=1e-5)
    for other in found[1:]:
        for name, absmax in vars(other).items():
            np.testing.assert_allclose(absmax, getattr(found[0], name), rtol=1e-5)


def test_what_is_not_weights_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(DATA / "dense", source)
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model-Q4.gguf"):
        (source / name).touch()
    target = tmp_path / "q"
    quantize_checkpoint(QuantizationJob(source, target, QuantizationConfig("wint8")), lambda line: None)
    assert {path.suffix for path in target.iterdir()} == {".json", ".model", ".safetensors"}
    for name in ("tokenizer.model", "generation_config.json", "tokenizer_config.json"):
        assert (target / name).read_bytes() == (DATA / "dense" / name).read_bytes()
    fields = json.loads((target / "config.json").read_text())
    assert fields["architectures"] == ["Ernie4_5_ForCausalLM"]
    assert (fields["rope_theta"], fields["torch_dtype"]) == (500000.0, "bfloat16")
    tensors = read_tensors(target / "model-00002-of-00004.safetensors")
    assert tensors["ernie.layers.0.self_attn.o_proj.quant_weight"].shape == (128, 64)
    assert tensors["ernie.layers.0.mlp.up_gate_proj.weight_scale"].shape == (320,)


MATRIX = st.tuples(st.integers(1, 70), st.integers(1, 3), st.sampled_from([0, 2, 32, 128]), st.integers(0, 999))


@settings(max_examples=40, deadline=None)
@given(MATRIX, st.sampled_from(["INT8", "INT4", "GROUPED_INT4", "W4A8"]), st.booleans())
def test_every_packer_is_undone_by_its_unpacker(
    matrix: tuple[int, int, int, int], name: str, is_bfloat16: bool
) -> None:
    outputs, blocks, rotation, seed = matrix
    values = np.random.default_rng(seed).standard_normal((outputs, 128 * blocks)).astype(np.float32)
    values[0] *= seed % 2
    source: NDArray[np.generic] = values
    if is_bfloat16:
        source = float32_to_bfloat16(values)
        values = (float32_to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    kept = WeightFormat[name]
    recipe = Recipe((CheckpointTensor("a.down_proj.weight", values.shape[::-1]),), is_transposed=True)
    stored = stored_weight(recipe, kept)
    assert stored is not None
    rotation = rotation if kept is WeightFormat.W4A8 else 0
    tensors = quantized_tensors(stored, kept, source, 3.25, rotation)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {s.name: s.shape for s in stored.tensors}

    class Files:
        def tensor(self, name: str) -> NDArray[np.generic]:
            return tensors[name]

        def file_of(self, name: str) -> Path:
            raise AssertionError(name)

    whole = part_of(Role.ROUTER, (outputs, 128 * blocks), ModelConfig.from_directory(DATA / "dense"), Shard())
    expected: QuantizedWeight | W4A8Weight
    if kept is WeightFormat.INT8:
        expected = quantize_int8(values)
    elif kept is WeightFormat.GROUPED_INT4:
        expected = quantize_grouped_int4(values)
    else:
        expected = quantize_int4(values) if kept is WeightFormat.INT4 else quantize_w4a8(values, 3.25, rotation)
    assert_same(read_stored(Files(), stored, kept, rotation, whole), expected)


def test_keys_are_weights(tmp_path: Path) -> None:
    """The names that FastDeploy gives them."""
    target = make("moe_tp", tmp_path / "q", "w4a8", has_cache_scales=True)
    names = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    assert names["ernie.embed_tokens.weight"] == names["lm_head.weight"] == "model-00001-of-00004.safetensors"
    expected = {
        "self_attn.qkv_proj.quant_weight",
        "self_attn.cachek_matmul.activation_scale",
        "self_attn.cachev_matmul.activation_scale",
        "mlp.gate.weight",
        "mlp.moe_statics.e_score_correction_bias",
        "mlp.experts.3.up_gate_proj.quant_weight",
        "mlp.experts.3.up_gate_proj.weight_scale",
        "mlp.experts.3.down_proj.activation_scale",
    }
    assert expected <= {name.removeprefix("ernie.layers.1.") for name in names}
    assert WeightKey(Role.EXPERT_DOWN, 1, 3) in recipes(ModelConfig.from_directory(target), PADDLE)
