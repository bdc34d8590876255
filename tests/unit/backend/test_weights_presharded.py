"""Checkpoints cut for ranks, read back by one: the parts, what they make up, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.architectures import PADDLE
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.files import INDEX, Checkpoint
from ernie_backend.weights.checkpoints.presharded import rank_directories
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.recipes import recipes
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import Shard
from ernie_kernels.formats import W4A8Weight, bfloat16_to_float32
from support.checkpoints.quantized_checkpoints import assert_same, make
from support.checkpoints.safetensors_writer import read_tensors, write_tensors

LAYER = "ernie.layers.1."
EXPERT = LAYER + "mlp.experts.2."


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W4A8C8 twin of moe_tp, cut for four ranks."""
    return make("moe_tp", tmp_path_factory.mktemp("cut") / "q", "w4a8", has_cache_scales=True, ranks=4)


@pytest.fixture
def copy(cut: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cut, tmp_path / "q"))


def opened(directory: Path) -> CheckpointWeights:
    return CheckpointWeights.open(directory, ModelConfig.from_directory(directory), "bfloat16", "w4a8")


def edit(directory: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Change a tensor of one rank."""
    path = directory / json.loads((directory / INDEX).read_text())["weight_map"][name]
    tensors = read_tensors(path)
    write_tensors(path, {**tensors, name: change(tensors[name])})


def remove(directory: Path, name: str) -> None:
    """Take a tensor out of the index of one rank."""
    index = json.loads((directory / INDEX).read_text())
    del index["weight_map"][name]
    (directory / INDEX).write_text(json.dumps(index))


def test_each_rank_has_whole_heads_and_its_share_of_widths(cut: Path) -> None:
    """8 query and 4 kv heads of 16, experts 512 wide, hidden 128, vocabulary 640."""
    expected = {
        LAYER + "self_attn.qkv_proj.quant_weight": (128, 64),
        LAYER + "self_attn.qkv_proj.weight_scale": (64,),
        LAYER + "self_attn.o_proj.quant_weight": (32, 128),
        LAYER + "self_attn.o_proj.weight_scale": (128,),
        LAYER + "self_attn.cachek_matmul.activation_scale": (16,),
        EXPERT + "up_gate_proj.quant_weight": (64, 256),
        EXPERT + "up_gate_proj.weight_scale": (256,),
        EXPERT + "down_proj.quant_weight": (64, 128),
        EXPERT + "down_proj.activation_scale": (1,),
        LAYER + "mlp.gate.weight": (128, 4),
        "ernie.embed_tokens.weight": (160, 128),
        "lm_head.weight": (128, 160),
        "ernie.norm.weight": (128,),
    }
    assert [path.name for path in rank_directories(cut)] == ["rank0", "rank1", "rank2", "rank3"]
    for directory in rank_directories(cut):
        checkpoint = Checkpoint.open(directory)
        assert {name: checkpoint.shape(name) for name in expected} == expected
        checkpoint.close()


def test_joined_it_is_the_checkpoint_that_was_not_cut(cut: Path, tmp_path: Path) -> None:
    whole = make("moe_tp", tmp_path / "whole", "w4a8", has_cache_scales=True)
    with opened(cut) as found, opened(whole) as expected:
        for name in expected._checkpoint.names:
            np.testing.assert_array_equal(
                found._checkpoint.tensor(name), expected._checkpoint.tensor(name), err_msg=name
            )


def test_each_of_as_many_ranks_opens_its_own_directory(cut: Path, tmp_path: Path) -> None:
    whole = make("moe_tp", tmp_path / "whole", "w4a8", has_cache_scales=True)
    config = ModelConfig.from_directory(cut)
    for rank in range(4):
        shard = Shard(rank, 4)
        with (
            CheckpointWeights.open(cut, config, "bfloat16", "w4a8", shard=shard) as found,
            CheckpointWeights.open(whole, config, "bfloat16", "w4a8", shard=shard) as expected,
        ):
            for key, recipe in recipes(config, PADDLE).items():
                if len(recipe.shape) == 2 and key.role is not Role.ROUTER_BIAS:
                    assert_same(found.linear(*key), expected.linear(*key))
            for name, scales in vars(expected.cache_scales(1)).items():
                assert scales.shape == (1, 16)
                np.testing.assert_array_equal(getattr(found.cache_scales(1), name), scales)
            files = {found._checkpoint.file_of(name) for name in found._checkpoint.names}
            assert {path.parent.name for path in files} == {f"rank{rank}"}


def test_ranks_with_whole_experts_join_the_parts(cut: Path) -> None:
    config, shard = ModelConfig.from_directory(cut), Shard(3, 4, is_expert_parallel=True)
    with CheckpointWeights.open(cut, config, "bfloat16", "w4a8", shard=shard) as found, opened(cut) as expected:
        assert_same(found.linear(Role.EXPERT_DOWN, 1, 3), expected.linear(Role.EXPERT_DOWN, 1, 3))


def test_scales_of_a_rank_s_own_are_read_by_as_many_ranks(copy: Path) -> None:
    name = EXPERT + "down_proj.activation_scale"
    edit(copy / "rank3", name, lambda absmax: absmax * 2)
    config, scales = ModelConfig.from_directory(copy), []
    for rank in (2, 3):
        with CheckpointWeights.open(copy, config, "bfloat16", "w4a8", shard=Shard(rank, 4)) as weights:
            weight = weights.linear(Role.EXPERT_DOWN, 1, 2)
            assert isinstance(weight, W4A8Weight)
            scales.append(weight.input_scale)
    np.testing.assert_allclose(scales[1], 2 * scales[0], rtol=1e-6)


def test_another_number_of_ranks_is_refused(cut: Path) -> None:
    config = ModelConfig.from_directory(cut)
    with pytest.raises(StartError, match=r"4 ranks .*tensor_parallel_size is 2"):
        CheckpointWeights.open(cut, config, "bfloat16", "w4a8", shard=Shard(0, 2))


def test_a_missing_rank_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "rank1")
    with pytest.raises(StartError, match="rank1 is missing"):
        opened(copy)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (EXPERT + "down_proj.activation_scale", "inputs"),
        (
            EXPERT + "up_gate_proj.weight_scale",
            "output",
        ),
        (LAYER + "self_attn.o_proj.quant_weight", "quantization_config"),
        (
            LAYER + "self_attn.cachev_matmul.activation_scale",
            "KV cache",
        ),
    ],
)
def test_a_missing_tensor_is_named_with_what_it_is_for(copy: Path, name: str, complaint: str) -> None:
    for directory in rank_directories(copy):
        remove(directory, name)
    with pytest.raises(StartError, match=f"{name} is missing .*{complaint}"):
        opened(copy)


def test_a_tensor_that_one_rank_lacks_is_named(copy: Path) -> None:
    remove(copy / "rank2", "ernie.norm.weight")
    with pytest.raises(StartError, match=r"ernie\.norm\.weight .*every rank"):
        opened(copy)


def test_a_part_of_another_shape_is_named(copy: Path) -> None:
    name = EXPERT + "down_proj.quant_weight"
    edit(copy / "rank0", name, lambda codes: codes[:-1])
    with pytest.raises(
        StartError,
        match=rf"rank0/.*{name} .*\[63, 128\]",
    ):
        opened(copy)


@pytest.mark.parametrize("size", [1, 2])
def test_missing_last_ranks_show_in_the_shapes(copy: Path, size: int) -> None:
    for rank in (2, 3):
        shutil.rmtree(copy / f"rank{rank}")
    config = ModelConfig.from_directory(copy)
    complaint = r"has shape \[\d+.*; config.json .* one of 2 ranks has .*: is the directory of a rank missing"
    with pytest.raises(StartError, match=complaint):
        CheckpointWeights.open(copy, config, "bfloat16", "w4a8", shard=Shard(0, size))


def test_parts_of_different_types_cannot_be_joined(copy: Path) -> None:
    """The bits of bfloat16 would be taken for numbers, or a float's for bits."""
    name = "ernie.embed_tokens.weight"
    edit(copy / "rank2", name, bfloat16_to_float32)
    complaint = f"{name} .*BF16 .*F32 "
    with opened(copy) as weights, pytest.raises(StartError, match=complaint):
        weights.linear(Role.EMBEDDING)


def test_scales_of_the_cache_are_of_all_layers_or_of_none(copy: Path) -> None:
    """Without a kv_cache_quant_type in config.json too; else one layer's loss would cost all their scales."""
    fields = json.loads((copy / "config.json").read_text())
    del fields["quantization_config"]["kv_cache_quant_type"]
    (copy / "config.json").write_text(json.dumps(fields))
    with opened(copy) as weights:
        assert weights.cache_scales(2) is not None
    first = ["ernie.layers.0.self_attn.cachek_matmul.activation_scale"]
    first.append(first[0].replace("cachek", "cachev"))
    for directory in rank_directories(copy):
        for name in first:
            remove(directory, name)
    with pytest.raises(StartError, match=f"{first[0]} and 1 more"):
        opened(copy)


def test_a_head_that_was_cut_is_not_tied_away(copy: Path) -> None:
    fields = json.loads((copy / "config.json").read_text())
    del fields["tie_word_embeddings"]
    (copy / "config.json").write_text(json.dumps(fields))
    for shard in (Shard(), Shard(1, 4)):
        with pytest.raises(StartError, match=r"lm_head\.weight .*ernie\.embed_tokens"):
            CheckpointWeights.open(copy, ModelConfig.from_directory(copy), "bfloat16", "w4a8", shard=shard)


def test_scales_that_differ_by_rank_cannot_be_joined(copy: Path) -> None:
    name = EXPERT + "down_proj.activation_scale"
    edit(copy / "rank3", name, lambda absmax: absmax * 2)
    complaint = f"rank0 and rank3 .*{name}"
    with opened(copy) as weights, pytest.raises(StartError, match=complaint):
        weights.linear(Role.EXPERT_DOWN, 1, 2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_an_absmax_is_a_number_of_at_least_0(copy: Path, wrong: float) -> None:
    name = LAYER + "self_attn.cachek_matmul.activation_scale"
    edit(copy / "rank0", name, lambda absmax: np.where(np.arange(16) == 3, np.float32(wrong), absmax))
    with (
        opened(copy) as weights,
        pytest.raises(StartError, match=f"rank0/.*{name} .*{wrong}"),
    ):
        weights.cache_scales(1)


def test_inputs_of_an_expert_that_are_zeros_are_refused(copy: Path) -> None:
    """The expert would answer with zeros; a file of zeros is what a lost disk block looks like."""
    name = EXPERT + "up_gate_proj.activation_scale"
    edit(copy / "rank1", name, np.zeros_like)
    config = ModelConfig.from_directory(copy)
    with (
        CheckpointWeights.open(copy, config, "bfloat16", "w4a8", shard=Shard(1, 4)) as weights,
        pytest.raises(StartError, match=f"rank1/.*{name} is 0"),
    ):
        weights.linear(Role.EXPERT_GATE_UP, 1, 2)


def test_quantized_weights_without_a_quantization_config(copy: Path) -> None:
    config = copy / "config.json"
    config.write_text(config.read_text().replace("quantization_config", "quantization_notes"))
    with pytest.raises(StartError, match="quantization_config"):
        CheckpointWeights.open(copy, ModelConfig.from_directory(copy), "bfloat16", None)
