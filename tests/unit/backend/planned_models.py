"""Models to plan: small ones, as sizes and as config.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ernie_backend.config_fields import ConfigFields
from ernie_backend.devices.device import Device, p800
from ernie_backend.memory.config_shape import shape_of
from ernie_backend.model_shape import ModelShape

DENSE = Path(__file__).parents[2] / "data" / "dense"
EXPERTS = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "moe_num_experts": 8,
    "moe_k": 3,
    "moe_intermediate_size": 48,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 9,
    "moe_layer_interval": 2,
    "num_hidden_layers": 5,
}


def model(directory: Path, **fields: Any) -> Path:
    """Write a config.json: the dense golden's, with other fields."""
    text = json.loads((DENSE / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**text, **fields}))
    return directory


WIDE = ModelShape(
    vocab_size=1000,
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=4,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    is_tied=False,
)


def with_experts(shape: ModelShape = WIDE, **fields: Any) -> ModelShape:
    """Return a model with experts, with other fields."""
    text = {
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": shape.is_tied,
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_intermediate_size": 512,
    }
    return shape_of(ConfigFields(Path("config.json"), {**text, **fields}))


def exactly(needed: int) -> Device:
    """Return a device with so many bytes."""
    return replace(p800(), memory_bytes=needed)
