"""Checkpoints as directories: both layouts, shards, formats, and every way in which one can be wrong."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.weights import loader
from ernie_backend.weights.checkpoints import quantized_cache
from ernie_backend.weights.checkpoints.files import Checkpoint
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import Shard
from ernie_kernels.formats import (
    Bfloat16Weight,
    Float32Weight,
    Int8Weight,
    bfloat16_to_float32,
    dequantize,
    quantize_int8,
)
from support.checkpoints.safetensors_writer import read_tensors, write_shards, write_tensors
from support.paths import DATA, DENSE

PADDLE = DATA / "dense-Paddle"
TENSORS = read_tensors(DENSE / "model.safetensors")
FIELDS: dict[str, Any] = json.loads((DENSE / "config.json").read_text())
MATRICES = (Role.QKV, Role.OUTPUT, Role.GATE_UP, Role.DOWN)


def open_weights(
    directory: Path,
    dtype: str = "bfloat16",
    quantization: str | None = None,
    cache_root: Path | None = None,
    **changes: Any,
) -> CheckpointWeights:
    """Open the weights in ``directory`` under dense's configuration with ``changes``."""
    if not (directory / "config.json").exists():
        (directory / "config.json").write_text(json.dumps(FIELDS | changes))
    config = ModelConfig.from_directory(directory)
    return CheckpointWeights.open(directory, config, dtype, quantization, cache_root)


def written(directory: Path, **changes: NDArray[Any] | None) -> Path:
    """Write dense in one file, with some tensors changed; None removes one. Dots in names are ``__``."""
    replaced = {name.replace("__", "."): values for name, values in changes.items()}
    tensors = {name: values for name, values in (TENSORS | replaced).items() if values is not None}
    write_tensors(directory / "model.safetensors", tensors)
    return directory


def all_weights(weights: CheckpointWeights) -> dict[tuple[Role, int], NDArray[np.float32]]:
    found = {(Role.EMBEDDING, 0): dequantize(weights.linear(Role.EMBEDDING))}
    found[Role.FINAL_NORM, 0] = weights.vector(Role.FINAL_NORM)
    for layer in range(3):
        found |= {(role, layer): dequantize(weights.linear(role, layer)) for role in MATRICES}
        for role in (Role.INPUT_NORM, Role.POST_ATTENTION_NORM):
            found[role, layer] = weights.vector(role, layer)
    return found


def assert_same_weights(weights: CheckpointWeights) -> None:
    with open_weights(DENSE) as expected:
        for (role, layer), values in all_weights(expected).items():
            np.testing.assert_array_equal(all_weights(weights)[role, layer], values, err_msg=f"{role} {layer}")


def test_fused_weights_hold_the_parts_in_order() -> None:
    with open_weights(DENSE) as weights:
        qkv, gate_up = weights.linear(Role.QKV, 1), weights.linear(Role.GATE_UP, 2)
    assert isinstance(qkv, Bfloat16Weight)
    assert isinstance(gate_up, Bfloat16Weight)
    attention, mlp = "model.layers.1.self_attn.", "model.layers.2.mlp."
    for begin, end, name in ((0, 128, "q_proj"), (128, 192, "k_proj"), (192, 256, "v_proj")):
        np.testing.assert_array_equal(qkv.bits[begin:end], TENSORS[f"{attention}{name}.weight"])
    np.testing.assert_array_equal(gate_up.bits[:160], TENSORS[mlp + "gate_proj.weight"])
    np.testing.assert_array_equal(gate_up.bits[160:], TENSORS[mlp + "up_proj.weight"])


def test_paddle_layout_gives_the_same_weights() -> None:
    with open_weights(PADDLE) as weights:
        assert_same_weights(weights)


def test_shards_give_the_same_weights(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 4)
    with open_weights(tmp_path) as weights:
        assert_same_weights(weights)


def test_weights_outlive_the_checkpoint_and_are_contiguous() -> None:
    for directory in (DENSE, PADDLE):
        with open_weights(directory) as weights:
            output = weights.linear(Role.OUTPUT, 0)
        assert isinstance(output, Bfloat16Weight)
        assert output.bits.flags.c_contiguous
        assert output.bits.flags.writeable
        np.testing.assert_array_equal(output.bits, TENSORS["model.layers.0.self_attn.o_proj.weight"])


def test_float32_of_a_bfloat16_checkpoint_is_exact() -> None:
    with open_weights(DENSE, dtype="float32") as weights:
        down = weights.linear(Role.DOWN, 0)
    assert isinstance(down, Float32Weight)
    np.testing.assert_array_equal(
        down.values, bfloat16_to_float32(TENSORS["model.layers.0.mlp.down_proj.weight"])
    )


@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_other_checkpoint_types_are_converted(tmp_path: Path, stored: type[np.floating[Any]]) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    values = np.random.default_rng(0).standard_normal((64, 160)).astype(stored)
    written(tmp_path, **{name: values})
    with open_weights(tmp_path, dtype="float32") as weights:
        np.testing.assert_array_equal(dequantize(weights.linear(Role.DOWN, 0)), values.astype(np.float32))
    with open_weights(tmp_path) as weights:
        rounded = dequantize(weights.linear(Role.DOWN, 0))
    np.testing.assert_allclose(rounded, values, rtol=2**-8)
    assert not np.array_equal(rounded, values)


def test_parts_of_different_types_are_fused(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    with open_weights(written(tmp_path, **{name: values}), dtype="float32") as weights:
        qkv = dequantize(weights.linear(Role.QKV, 0))
    np.testing.assert_array_equal(qkv[128:192], values)
    np.testing.assert_array_equal(
        qkv[:128], bfloat16_to_float32(TENSORS["model.layers.0.self_attn.q_proj.weight"])
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wint8_quantizes_every_matrix(dtype: str) -> None:
    with open_weights(DENSE, dtype, "wint8") as weights, open_weights(DENSE, "float32") as exact:
        for role in (Role.EMBEDDING, *MATRICES):
            found, expected = weights.linear(role), quantize_int8(dequantize(exact.linear(role)))
            assert isinstance(found, Int8Weight)
            np.testing.assert_array_equal(found.codes, expected.codes)
            np.testing.assert_array_equal(found.scales, expected.scales)


@pytest.fixture
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(quantized_cache, "MIN_BYTES", 0)
    return tmp_path / "cache"


def codes(directory: Path, cache_root: Path | None) -> dict[tuple[Role, int], NDArray[np.int8]]:
    with open_weights(directory, quantization="wint8", cache_root=cache_root) as weights:
        linears = {(role, layer): weights.linear(role, layer) for role in MATRICES for layer in range(3)}
    return {place: weight.codes for place, weight in linears.items() if isinstance(weight, Int8Weight)}


def test_a_model_is_quantized_once_and_what_is_damaged_again(
    tmp_path: Path, cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = written(tmp_path)
    expected, quantize = codes(model, None), Mock(wraps=loader._quantize)
    monkeypatch.setattr(loader, "_quantize", quantize)
    for damaged, count in ((0, 12), (0, 0), (3, 3), (0, 0)):
        for path in sorted(path for path in cache_root.rglob("*") if path.is_file())[:damaged]:
            path.write_bytes(path.read_bytes()[:-1])
        quantize.reset_mock()
        found = codes(model, cache_root)
        assert quantize.call_count == count
        assert all(np.array_equal(found[place], expected[place]) for place in expected)


def test_weights_that_are_replaced_while_they_are_opened_are_not_cached_as_the_new_ones(
    tmp_path: Path, cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    other = tmp_path / "other"
    other.mkdir()
    newer = written(other, **{name.replace(".", "__"): TENSORS[name][::-1].copy()}) / "model.safetensors"
    model = written(tmp_path)
    open_checkpoint = Checkpoint.open

    def opened_and_replaced(directory: Path) -> Checkpoint:
        checkpoint = open_checkpoint(directory)
        newer.replace(directory / "model.safetensors")
        return checkpoint

    monkeypatch.setattr(Checkpoint, "open", opened_and_replaced)
    older = codes(model, cache_root)
    monkeypatch.setattr(Checkpoint, "open", open_checkpoint)
    assert np.array_equal(codes(model, cache_root)[Role.DOWN, 0], older[Role.DOWN, 0][::-1])


def test_a_large_vocabulary_is_quantized_in_pieces(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((10_000, 64)).astype(np.float32)
    directory = written(tmp_path, model__embed_tokens__weight=rows)
    with open_weights(directory, "float32", "wint8", vocab_size=10_000) as weights:
        found, expected = weights.linear(Role.EMBEDDING), quantize_int8(rows)
    assert isinstance(found, Int8Weight)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.scales, expected.scales)


@pytest.mark.parametrize("layout", ["hf", "paddle"])
def test_untied_head(tmp_path: Path, layout: str) -> None:
    head = np.random.default_rng(0).integers(0, 0x3F80, (640, 64)).astype(np.uint16)
    if layout == "hf":
        written(tmp_path, lm_head__weight=head)
    else:
        tensors = read_tensors(PADDLE / "model-00001-of-00001.safetensors")
        write_shards(tmp_path, tensors | {"lm_head.weight": head.T}, 2)
    with open_weights(tmp_path, tie_word_embeddings=False) as weights:
        np.testing.assert_array_equal(dequantize(weights.linear(Role.HEAD)), bfloat16_to_float32(head))
    with open_weights(tmp_path, "float32", "wint8") as weights:
        assert isinstance(weights.linear(Role.HEAD), Int8Weight)
        table = weights.linear(Role.EMBEDDING)
    assert isinstance(table, Bfloat16Weight)
    np.testing.assert_array_equal(table.bits, TENSORS["model.embed_tokens.weight"])


def test_extra_tensors_are_named_once_unless_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    harmless = {"model.mtp_block.0.x": TENSORS["model.norm.weight"], "model.rotary_emb.inv_freq": np.ones(4)}
    harmless = {name: values.astype(np.float32) for name, values in harmless.items()}
    write_tensors(tmp_path / "model.safetensors", TENSORS | harmless)
    with caplog.at_level(logging.WARNING), open_weights(tmp_path):
        assert caplog.messages == []
    write_tensors(
        tmp_path / "model.safetensors",
        TENSORS | {"b.x": np.ones(1, np.float32), "a.x": np.ones(2)[:0].astype(np.float32)},
    )
    with caplog.at_level(logging.WARNING), open_weights(tmp_path):
        (message,) = caplog.messages
        assert re.match(f"{tmp_path}: 2 tensors .*a.x", message)


def fail(directory: Path, **changes: Any) -> str:
    with pytest.raises(StartError) as caught:
        open_weights(directory, **changes)
    assert str(directory) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def test_missing_tensors(tmp_path: Path) -> None:
    written(tmp_path, model__layers__1__self_attn__v_proj__weight=None, model__norm__weight=None)
    assert "model.layers.1.self_attn.v_proj.weight and 1 more" in fail(tmp_path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_cached", [False, True])
def test_what_is_not_finite_is_not_quantized(
    tmp_path: Path, cache_root: Path, wrong: float, is_cached: bool
) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    values = bfloat16_to_float32(TENSORS[name])
    values[7, 3] = wrong
    directory = written(tmp_path, **{name: values})
    root = cache_root if is_cached else None
    with open_weights(directory, quantization="wint8", cache_root=root) as weights:
        for _ in range(2):
            with pytest.raises(StartError, match=f"{name} .*finite.* 7"):
                weights.linear(Role.QKV, 1)


def test_the_tensor_that_is_not_finite_is_found_in_a_part_of_it(tmp_path: Path) -> None:
    """Rank 1 of 2 has the key head 1 of 2, rows 32 to 63."""
    name = "model.layers.1.self_attn.k_proj.weight"
    values = bfloat16_to_float32(TENSORS[name])
    values[40, 3] = np.nan
    directory = written(tmp_path, **{name: values})
    open_weights(directory).close()
    config = ModelConfig.from_directory(directory)
    for rank, is_refused in ((0, False), (1, True)):
        shard = Shard(rank, 2)
        with CheckpointWeights.open(directory, config, "bfloat16", "wint8", shard=shard) as weights:
            if is_refused:
                with pytest.raises(StartError, match=f"{name} .*finite.* 40"):
                    weights.linear(Role.QKV, 1)
            else:
                weights.linear(Role.QKV, 1)


def test_a_norm_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    wrong = np.ones(64, np.float32)
    wrong[5] = np.nan
    with (
        open_weights(written(tmp_path, model__norm__weight=wrong)) as weights,
        pytest.raises(StartError, match=r"model\.norm\.weight .*finite.* 5"),
    ):
        weights.vector(Role.FINAL_NORM)


@pytest.mark.parametrize("says", [{}, {"tie_word_embeddings": True}])
def test_a_head_of_its_own_is_not_tied(tmp_path: Path, says: dict[str, bool]) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != "tie_word_embeddings"}
    (tmp_path / "config.json").write_text(json.dumps(fields | says))
    table = TENSORS["model.embed_tokens.weight"]
    complaint = "tie_word_embeddings"
    assert complaint in fail(written(tmp_path, lm_head__weight=table[::-1].copy()))


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_copy_of_the_tied_embedding_is_no_other_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_transposed: bool
) -> None:
    table = TENSORS["model.embed_tokens.weight"]
    written(tmp_path, lm_head__weight=np.ascontiguousarray(table.T) if is_transposed else table)
    with open_weights(tmp_path, tie_word_embeddings=True):
        assert caplog.messages == []


def test_missing_head(tmp_path: Path) -> None:
    message = fail(written(tmp_path), tie_word_embeddings=False)
    assert "lm_head.weight is missing" in message
    assert "tie_word_embeddings" in message


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.0.pre_feedforward_layernorm.weight",
        "model.layers.2.self_attn.k_proj.bias",
        "lm_head.bias",
    ],
)
def test_terms_of_another_decoder_are_refused(tmp_path: Path, name: str) -> None:
    tensors = TENSORS | {"lm_head.weight": TENSORS["model.embed_tokens.weight"]}
    write_tensors(tmp_path / "model.safetensors", tensors | {name: np.ones(64, np.float32)})
    message = fail(tmp_path, tie_word_embeddings=False)
    assert name in message


def test_wrong_shape(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    message = fail(written(tmp_path, **{name: np.ascontiguousarray(TENSORS[name].T)}))
    assert f"{name} has shape [160, 64]" in message


def test_fewer_layers_in_the_config_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_weights(written(tmp_path), num_hidden_layers=2):
        assert "9 tensors" in caplog.text


def test_truncated_file(tmp_path: Path) -> None:
    content = (DENSE / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-100])
    assert "model.safetensors is truncated" in fail(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    assert "model.safetensors.index.json" in fail(tmp_path)


def test_weights_in_paddle_s_older_format(tmp_path: Path) -> None:
    (tmp_path / "model_state.pdparams").write_bytes(b"x")
    assert "model_state.pdparams" in fail(tmp_path)


def test_another_model(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"transformer.h.0.weight": np.ones(4, np.float32)})
    assert "ernie.layers" in fail(tmp_path)


def test_integer_weights(tmp_path: Path) -> None:
    written(tmp_path, model__norm__weight=np.ones(64, np.int64))
    with open_weights(tmp_path) as weights, pytest.raises(StartError, match=r"norm\.weight .*I64"):
        weights.vector(Role.FINAL_NORM)


def test_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in fail(tmp_path)


def test_truncated_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 3)
    shard = tmp_path / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "model-00003-of-00003.safetensors is truncated" in fail(tmp_path)


def test_shard_without_its_tensor(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 2)
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", {})
    assert "model-00002-of-00002.safetensors" in fail(tmp_path)


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ("{", "cannot be read: its content is not JSON"),
        ("[]", "must be a JSON object, not list"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 1}}', "not a file name"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "which is not a file name"),
    ],
)
def test_broken_index(tmp_path: Path, index: str, complaint: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert complaint in fail(tmp_path)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dtype": "float16"}, "float16"),
        (
            {"quantization": "wint3"},
            "wint3",
        ),
    ],
)
def test_unknown_formats(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(StartError, match=complaint):
        open_weights(DENSE, settings.get("dtype", "bfloat16"), settings.get("quantization"))
