"""Reads the sizes of a model from config.json: text, vision-language and OCR, HF and Paddle alike.

A text model's sizes are those of ``ModelConfig``. A model with vision is read as the text model inside it, once
for the experts of each modality, and its tower. The HF layout keeps that text model under ``text_config``, the
Paddle layout beside ``vision_config``; the two modalities' experts stand in lists of two. This module must not
know settings or devices, and reads nothing but config.json and which directories of ranks there are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ernie_backend.config_fields import ConfigFields
from ernie_backend.memory.vision_sizes import ocr_tower, resampler_tower
from ernie_backend.model_config import ARCHITECTURES, ModelConfig
from ernie_backend.model_shape import ExpertBank, ModelShape, VisionShape, expert_bank, text_shape
from ernie_backend.weights.presharded import rank_directories

VISION = frozenset({"Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VL_MoeForConditionalGeneration"})
OCR = frozenset({"PaddleOCRVLForConditionalGeneration"})
_DENSE, _WITH_EXPERTS = "Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM"
"""The text models inside."""
_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
    "moe_k",
    "moe_num_shared_experts",
    "moe_layer_interval",
)
_BY_MODALITY = (
    "moe_num_experts",
    "moe_intermediate_size",
    "moe_layer_start_index",
    "moe_layer_end_index",
)
_LAYER_TYPES = ("dense", "sparse")


def read_shape(directory: Path, *, is_dummy: bool = False) -> ModelShape:
    """Return the sizes of the model in a directory.

    Args:
        directory: of config.json.
        is_dummy: the weights are random, so that directories of ranks mean nothing.

    Raises:
        StartError: see ``shape_of`` and ``rank_directories``.
    """
    shape = shape_of(ConfigFields.read(directory / "config.json"))
    return shape if is_dummy else replace(shape, num_parts=max(1, len(rank_directories(directory))))


def shape_of(fields: ConfigFields) -> ModelShape:
    """Return the sizes that the fields of a config.json say.

    Raises:
        StartError: see ``text_configs``, or a field of the vision tower is missing or impossible.
    """
    configs = text_configs(fields)
    shape = text_shape(configs[0])
    if has_text_only(fields):
        return shape
    if shape.experts is not None:
        shape = replace(shape, experts=replace(shape.experts, banks=_banks(fields, configs)))
    return replace(shape, vision=_vision(fields, shape.hidden_size))


def has_text_only(fields: ConfigFields) -> bool:
    """Whether the architecture is one that the engine can run: without vision.

    Raises:
        StartError: it is unknown.
    """
    named = fields.values.get("architectures")
    known = [*ARCHITECTURES, *sorted(VISION | OCR)]
    if not isinstance(named, list) or len(named) != 1 or named[0] not in known:
        raise fields.error(f"architectures is {named!r}; known are {', '.join(known)}")
    return named[0] in ARCHITECTURES


def text_configs(fields: ConfigFields) -> list[ModelConfig]:
    """Return the text model, or that inside a model with vision; one for each modality's experts, text first.

    Raises:
        StartError: the architecture is unknown, or a field of the text model is missing or impossible.
    """
    if has_text_only(fields):
        return [ModelConfig.from_fields(fields)]
    text = _inner(fields, "text_config")
    common = {name: text.values[name] for name in _TEXT_FIELDS if name in text.values}
    for name in ("tie_word_embeddings", "quantization_config"):
        if name in fields.values:
            common[name] = fields.values[name]
    if _is_ocr(fields):
        return [ModelConfig.from_fields(ConfigFields(fields.path, {**common, "architectures": [_DENSE]}))]
    common["architectures"] = [_WITH_EXPERTS]
    return [
        ModelConfig.from_fields(ConfigFields(fields.path, {**common, **experts}))
        for experts in _experts_by_modality(text)
    ]


def _is_ocr(fields: ConfigFields) -> bool:
    return fields.values["architectures"][0] in OCR


def _inner(fields: ConfigFields, name: str) -> ConfigFields:
    """Return the fields of an object in config.json, or its own where there is none."""
    value = fields.values.get(name)
    if value is None:
        return fields
    if not isinstance(value, dict):
        raise fields.error(f"{name} must be an object, found {value!r}")
    return ConfigFields(fields.path, value)


def _experts_by_modality(text: ConfigFields) -> list[dict[str, Any]]:
    """Return the fields of each modality's experts; a number in place of a list is that of all modalities."""
    given = {name: text.values[name] for name in _BY_MODALITY if name in text.values}
    lengths = {name: len(value) for name, value in given.items() if isinstance(value, list)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise text.error(f"lists of experts differ in length, or are empty: {lengths}; give one number each")
    return [
        {name: value[index] if isinstance(value, list) else value for name, value in given.items()}
        for index in range(max(lengths.values(), default=1))
    ]


def _banks(fields: ConfigFields, configs: list[ModelConfig]) -> tuple[ExpertBank, ...]:
    """Return the experts; ``mlp_layer_types``, as transformers writes it, tells their layers if it is there."""
    banks = tuple(expert_bank(config.moe) for config in configs if config.moe)
    text = _inner(fields, "text_config")
    types = text.values.get("mlp_layer_types")
    if types is None:
        return banks
    layers = configs[0].num_layers
    if not isinstance(types, list) or len(types) != layers or any(each not in _LAYER_TYPES for each in types):
        raise text.error(
            f"mlp_layer_types must be a list of num_hidden_layers {layers} words, each one of "
            f"{', '.join(_LAYER_TYPES)}; found {str(types)[:60]}"
        )
    return tuple(replace(bank, layers=types.count("sparse")) for bank in banks)


def _vision(fields: ConfigFields, hidden: int) -> VisionShape:
    tower = _inner(fields, "vision_config")
    return ocr_tower(tower, hidden) if _is_ocr(fields) else resampler_tower(tower, hidden)
