"""The sizes of models in config.json: text and vision, both layouts, and what is no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.moe_config import MoeConfig
from ernie_backend.devices.device import p800
from ernie_backend.errors import StartError
from ernie_backend.planning.memory_plan import plan_memory
from ernie_backend.planning.model_shape import read_shape, shape_of
from support.checkpoints.planned_models import EXPERTS, model, plan_settings, with_experts


def test_experts_are_counted_in_the_layers_that_have_them(tmp_path: Path) -> None:
    directory = model(tmp_path, **EXPERTS, mlp_layer_types=["sparse"] * 5)  # means nothing to a text model
    shape = read_shape(directory)
    assert shape.config.moe == MoeConfig(8, 3, 48, 2, layers=range(1, 5, 2))
    assert list(shape.config.expert_layers) == [1, 3]


VISION: dict[str, Any] = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "moe_num_experts": [8, 8],
    "moe_intermediate_size": [32, 16],
    "moe_k": 3,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [4, 3],
    "num_hidden_layers": 4,
    "freq_allocation": 4,
    "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 4, "patch_size": 14},
}


def test_the_two_layouts_of_a_vision_model_have_one_shape(tmp_path: Path) -> None:
    paddle = read_shape(model(tmp_path, **VISION))
    text = json.loads((tmp_path / "config.json").read_text())
    tower = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 128, "patch_size": 14}
    text |= {"moe_num_experts": 8, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
    del text["moe_layer_start_index"], text["moe_layer_end_index"], text["vision_config"]
    outer = {"architectures": text.pop("architectures"), "text_config": text, "vision_config": tower}
    huggingface = shape_of(ConfigFields(tmp_path, outer))
    assert huggingface.vision == paddle.vision
    assert (
        plan_memory(huggingface, plan_settings(), p800()).needed
        == plan_memory(paddle, plan_settings(), p800()).needed
    )
    for shape in (huggingface, paddle):
        banks = shape.config.expert_banks
        assert [(bank.num_experts, bank.intermediate_size) for bank in banks] == [(8, 32), (8, 16)]
        assert [(list(bank.layers), bank.shared_size) for bank in banks] == [([1, 2, 3], 64), ([1, 2, 3], 32)]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"use_bias": True}, "use_bias"),
        ({**EXPERTS, "moe_k": 9}, "moe_k 9"),
        ({**EXPERTS, "moe_num_experts": [8, 8]}, "moe_num_experts"),
        ({**VISION, "vision_config": 3}, "vision_config"),
        ({**VISION, "vision_config": {**VISION["vision_config"], "num_heads": 3}}, "num_heads 3"),
        ({**VISION, "vision_config": {**VISION["vision_config"], "hidden_act": "relu"}}, "hidden_act"),
        ({**VISION, "vision_config": {**VISION["vision_config"], "in_channels": 4}}, "in_channels"),
        ({**VISION, "moe_num_experts": [8, "8"]}, "moe_num_experts"),
        ({**VISION, "moe_num_experts": [8, 8, 8]}, "'moe_num_experts': 3"),
        ({**VISION, "moe_intermediate_size": []}, "moe_intermediate_size"),
        ({**VISION, "moe_k": 9}, "moe_k 9"),
        ({**VISION, "head_dim": 15}, "head_dim 15"),
        ({**VISION, "mlp_layer_types": ["sparse"] * 5}, "num_hidden_layers 4"),
        ({**VISION, "mlp_layer_types": ["dense", "sparse", "moe", "sparse"]}, "dense, sparse"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.quantization"),
    ],
)
def test_an_impossible_config_names_the_field(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StartError) as raised:
        read_shape(model(tmp_path, **fields))
    assert complaint in raised.value.message


def test_a_tower_with_an_embed_dim_is_so_wide(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, **VISION))
    tower = {**VISION["vision_config"], "embed_dim": 32, "hidden_size": 128}
    assert read_shape(model(tmp_path, **{**VISION, "vision_config": tower})) == shape


def test_impossibly_large_sizes_are_planned_at_once() -> None:
    stored = {"quantization": "wint8", "kv_cache_quant_type": "int8"}
    heads = dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 1 << 40)
    shape = with_experts(num_hidden_layers=10**12, **heads, quantization_config=stored)
    assert len(shape.config.expert_layers) == 10**12
    assert not plan_memory(shape, plan_settings(), p800()).fits


def test_fields_of_experts_mean_nothing_to_a_dense_model(tmp_path: Path) -> None:
    assert read_shape(model(tmp_path, moe_num_experts=8)).config.moe is None


def test_a_number_in_place_of_a_list_is_that_of_both_modalities(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, **{**VISION, "moe_num_experts": 4, "moe_layer_start_index": 2}))
    banks = shape.config.expert_banks
    assert [(bank.num_experts, bank.intermediate_size) for bank in banks] == [(4, 32), (4, 16)]
    assert [list(bank.layers) for bank in banks] == [[2, 3], [2, 3]]


def test_parts_are_counted_unless_the_weights_are_random(tmp_path: Path) -> None:
    directory = model(tmp_path)
    assert read_shape(directory).num_parts == 1
    for rank in range(4):
        (directory / f"rank{rank}").mkdir()
    assert read_shape(directory).num_parts == 4
    assert read_shape(directory, is_dummy=True).num_parts == 1
