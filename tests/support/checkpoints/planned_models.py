"""Models to plan: small ones, as sizes and as config.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.devices.device import Device, p800
from ernie_backend.planning.model_shape import ModelShape, shape_of
from ernie_backend.settings.engine_settings import EngineSettings
from support.paths import DENSE

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


def plan_settings(**values: Any) -> EngineSettings:
    """Return the settings of an engine, by their names."""
    return EngineSettings(Path("m")).replaced(**values)


def model(directory: Path, **fields: Any) -> Path:
    """Write a config.json: the dense golden's, with other fields."""
    text = json.loads((DENSE / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**text, **fields}))
    return directory


def wide(**fields: Any) -> ModelShape:
    """Return a dense model, with other fields."""
    text = {
        "architectures": ["Ernie4_5ForCausalLM"],
        "vocab_size": 1000,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    return shape_of(ConfigFields(Path("config.json"), {**text, **fields}))


WIDE = wide()


def with_experts(**fields: Any) -> ModelShape:
    """Return the same with experts in each layer."""
    experts = {
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_intermediate_size": 512,
    }
    return wide(**{**experts, **fields})


def quantized(shape: ModelShape, stored: QuantizationConfig | None) -> ModelShape:
    """Return a model whose checkpoint is quantized."""
    return replace(shape, config=replace(shape.config, quantization_config=stored))


def exactly(needed: int) -> Device:
    """Return a device with so many bytes."""
    return replace(p800(), memory_bytes=needed)
