"""config.json of both layouts, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.moe_config import MoeConfig
from ernie_backend.errors import StartError
from support.paths import DATA

FIELDS: dict[str, Any] = json.loads((DATA / "dense-Paddle" / "config.json").read_text())

MOE_FIELDS: dict[str, Any] = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "num_hidden_layers": 6,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_intermediate_size": 24,
}


def read(directory: Path, **changes: Any) -> ModelConfig:
    """Write a config.json with ``changes`` (None removes a field) and read it."""
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(fields))
    return ModelConfig.from_directory(directory)


def test_both_layouts_say_the_same() -> None:
    config = ModelConfig.from_directory(DATA / "dense")
    assert config == ModelConfig.from_directory(DATA / "dense-Paddle")
    assert dataclasses.asdict(config) == {
        "architecture": "Ernie4_5ForCausalLM",
        "vocab_size": 640,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "compression_ratio": 1.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_ids": (2,),
        "pad_token_id": 0,
        "rotary_axes": (),
        "moe": None,
        "vision_moe": None,
        "vision": None,
        "quantization_config": None,
    }


def test_both_layouts_say_the_same_about_experts() -> None:
    config = ModelConfig.from_directory(DATA / "moe300b")
    assert config == ModelConfig.from_directory(DATA / "moe300b-Paddle")
    assert config.moe == MoeConfig(
        num_experts=8,
        experts_per_token=4,
        intermediate_size=40,
        num_shared_experts=0,
        layers=range(3, 6, 2),
    )
    assert [layer for layer in range(6) if config.has_experts(layer)] == [3, 5]


def test_layers_with_experts(tmp_path: Path) -> None:
    def layers(**changes: Any) -> list[int]:
        config = read(tmp_path, **MOE_FIELDS, **changes)
        found = [layer for layer in range(config.num_layers) if config.has_experts(layer)]
        assert list(config.expert_layers) == found
        return found

    assert layers() == [0, 1, 2, 3, 4, 5]
    assert layers(moe_layer_start_index=2) == [2, 3, 4, 5]
    assert layers(moe_layer_start_index=1, moe_layer_end_index=3) == [1, 2, 3]
    assert layers(moe_layer_end_index=-1, moe_layer_interval=3) == [2, 5]
    assert layers(moe_layer_start_index=4, moe_layer_end_index=29) == [4, 5]
    assert layers(moe_layer_start_index=6) == layers(moe_layer_start_index=9) == []


def test_shared_experts_are_one_mlp(tmp_path: Path) -> None:
    for count, size in ((0, 0), (2, 48)):
        moe = read(tmp_path, **MOE_FIELDS, moe_num_shared_experts=count).moe
        assert moe is not None
        assert moe.shared_size == size


def test_a_dense_model_has_no_experts(tmp_path: Path) -> None:
    config = read(tmp_path, **{**MOE_FIELDS, "architectures": ["Ernie4_5_ForCausalLM"]})
    assert config.moe is None
    assert not config.has_experts(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"moe_num_experts": None},
        {"moe_num_experts": [4, 4]},
        {"moe_intermediate_size": 0},
        {"moe_k": None},
        {"moe_k": 5},
        {"moe_num_shared_experts": -1},
        {"moe_layer_interval": 0},
        {"moe_layer_start_index": -1},
        {"moe_layer_end_index": -2},
    ],
)
def test_wrong_fields_of_experts(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(StartError, match=next(iter(changes))):
        read(tmp_path, **{**MOE_FIELDS, **changes})


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (96, "power of two"),
        (2048, "power of two"),
        (128, "width 192"),
    ],
)
def test_a_rotation_that_experts_cannot_have(tmp_path: Path, block: int, complaint: str) -> None:
    stored = {"quantization": "w4a8", "is_permuted": False, "hadamard_block_size": block}
    with pytest.raises(StartError, match=f"hadamard_block_size .*{block} .*{complaint}"):
        read(tmp_path, **{**MOE_FIELDS, "moe_intermediate_size": 192, "quantization_config": stored})


def test_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, rope_theta=None, head_dim=None, num_key_value_heads=None, eos_token_id=None)
    assert config.rope_theta == 500000.0
    assert config.head_dim == 64 // 4
    assert config.num_kv_heads == 4
    assert config.eos_token_ids == (2,)


@pytest.mark.parametrize("architecture", ["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"])
def test_both_spellings_are_one_architecture(tmp_path: Path, architecture: str) -> None:
    assert read(tmp_path, architectures=[architecture]).architecture == "Ernie4_5ForCausalLM"


def test_rope_theta_of_either_place(tmp_path: Path) -> None:
    assert read(tmp_path, rope_theta=10000).rope_theta == 10000.0
    assert read(tmp_path, rope_parameters={"rope_theta": 20000.0}).rope_theta == 20000.0


def test_what_positions_are_divided_by(tmp_path: Path) -> None:
    rotary = read(tmp_path, compression_ratio=4).rotary(100)
    assert (rotary.head_dim, rotary.max_positions, rotary.theta) == (32, 100, 500000.0)
    assert rotary.compression_ratio == 4.0
    assert rotary.interleaved


def test_several_eos_tokens(tmp_path: Path) -> None:
    assert read(tmp_path, eos_token_id=[2, 5]).eos_token_ids == (2, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": None},
        {"architectures": "Ernie4_5ForCausalLM"},
        {"hidden_size": None},
        {"vocab_size": "640"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": True},
        {"intermediate_size": 160.0},
        {"num_key_value_heads": 3},
        {"num_attention_heads": 6, "head_dim": None},
        {"head_dim": 31},
        {"rms_norm_eps": 0},
        {"rope_theta": "big"},
        {"rope_parameters": 5},
        {"rope_scaling": "linear"},
        {"compression_ratio": 0},
        {"tie_word_embeddings": "yes"},
        {"eos_token_id": []},
        {"eos_token_id": [2, 640]},
        {"bos_token_id": -1},
    ],
)
def test_wrong_fields(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(StartError) as caught:
        read(tmp_path, **changes)
    assert next(iter(changes)) in caught.value.message
    assert str(tmp_path / "config.json") in caught.value.message
    assert "\n" not in caught.value.message


OTHER_MATHS: list[tuple[str, Any, str]] = [
    ("hidden_act", "gelu", '"silu"'),
    ("use_bias", True, "false"),
    ("use_rmsnorm", False, "true"),
    ("use_qk_norm", True, "false"),
    ("scale_qk_coeff", 2.0, "1"),
    ("sliding_window", 4096, "null"),
    ("partial_rotary_factor", 0.5, "1"),
    ("rope_reorder", True, "false"),
]
OTHER_EXPERTS: list[tuple[str, Any, str]] = [
    ("scoring_func", "sigmoid", '"softmax"'),
    ("moe_gate_act", "sigmoid", '"softmax"'),
    ("moe_norm_gate_logits", False, "true"),
    ("moe_norm_min", 1e-6, "1e-12"),
    ("moe_use_aux_free", False, "true"),
    ("moe_use_hard_gate", True, "false"),
    ("moe_group_experts", True, "false"),
    ("routed_scaling_factor", 2.5, "1"),
]


@pytest.mark.parametrize(
    ("name", "value", "supported"), OTHER_MATHS + OTHER_EXPERTS, ids=lambda each: str(each)
)
def test_other_maths_are_refused_by_the_name_of_their_field(
    tmp_path: Path, name: str, value: Any, supported: str
) -> None:
    with pytest.raises(StartError) as caught:
        read(tmp_path, **MOE_FIELDS, **{name: value})
    expected = f"{tmp_path / 'config.json'}: {name} is {json.dumps(value)}; only {supported} is supported"
    assert caught.value.message.startswith(expected)
    neutral = read(tmp_path, **MOE_FIELDS, **{name: json.loads(supported)})
    assert neutral == read(tmp_path, **MOE_FIELDS), "its neutral value is as none"


def test_a_dense_model_may_say_anything_of_experts(tmp_path: Path) -> None:
    assert read(tmp_path, **{name: value for name, value, _ in OTHER_EXPERTS}) == read(tmp_path)


@pytest.mark.parametrize("where", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    ("inner", "complaint"),
    [
        ({"rope_type": "yarn", "factor": 4}, "rope_type .*yarn"),
        ({"type": "linear"}, "type .*linear"),
        ({"factor": 2}, "factor .*2"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_other_rotations_are_refused(tmp_path: Path, where: str, inner: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StartError, match=f"{where}.{complaint}"):
        read(tmp_path, **{where: inner})


def test_a_rotation_that_is_the_default_is_taken(tmp_path: Path) -> None:
    scaling = {"rope_type": "default", "type": "default", "factor": 1.0, "rope_theta": 20000.0}
    assert read(tmp_path, rope_scaling=scaling).rope_theta == 20000.0
    # What a vision-language model has beside it changes nothing for text.
    assert read(tmp_path, rope_3d=True, freq_allocation=20) == read(tmp_path)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="nowhere"):
        ModelConfig.from_directory(tmp_path / "nowhere")


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"config\.json"):
        ModelConfig.from_directory(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(StartError, match=r"config\.json"):
        ModelConfig.from_directory(tmp_path)


def test_json_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(StartError, match="list"):
        ModelConfig.from_directory(tmp_path)
