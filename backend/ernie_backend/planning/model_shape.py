"""A model as it is planned, from config.json: text, vision-language and OCR, HF and Paddle alike.

A model with vision is read as the text model inside it and its tower. The HF layout keeps that text model under
``text_config``, the Paddle layout next to ``vision_config``; the experts of text and of pictures are in lists
of two. Only config.json and the names of the ranks' directories are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ernie_backend.config.architectures import Architecture, find_architecture
from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.model_config import ModelConfig, MoeConfig
from ernie_backend.config.vision_shape import VisionShape
from ernie_backend.weights.checkpoints.presharded import rank_directories

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


@dataclass(frozen=True)
class ModelShape:
    """What decides how a model is cut and how much memory it takes.

    Attributes:
        config: the decoder.
        vision: the tower before it; None in a text model.
        num_parts: directories of ranks that the checkpoint was cut into; 1: it is whole.
    """

    config: ModelConfig
    vision: VisionShape | None = None
    num_parts: int = 1

    @property
    def has_cache_scales(self) -> bool:
        """Whether the checkpoint brings the scales of an int8 KV cache, which it requires then."""
        stored = self.config.quantization_config
        return stored is not None and stored.has_cache_scales


def read_shape(directory: Path, *, is_dummy: bool = False) -> ModelShape:
    """Return the sizes of the model in a directory.

    Args:
        directory: of config.json.
        is_dummy: the weights are random, so directories of ranks do not count.

    Raises:
        StartError: see ``shape_of`` and ``rank_directories``.
    """
    shape = shape_of(ConfigFields.read(directory / "config.json"))
    return shape if is_dummy else replace(shape, num_parts=count_parts(directory))


def count_parts(directory: Path) -> int:
    """Return for how many ranks a checkpoint was cut; 1: it is whole. Raises what ``rank_directories`` does."""
    return max(1, len(rank_directories(directory)))


def shape_of(fields: ConfigFields) -> ModelShape:
    """Return the sizes that the fields of a config.json say.

    Raises:
        StartError: the architecture is unknown, or a field is missing or impossible.
    """
    architecture = find_architecture(fields, is_served=False)
    if architecture.tower is None:
        return ModelShape(ModelConfig.from_fields(fields))
    config = _text_config(fields, architecture)
    return ModelShape(config, architecture.tower(_inner(fields, "vision_config"), config.hidden_size))


def _text_config(fields: ConfigFields, architecture: Architecture) -> ModelConfig:
    """Return the text model inside a model with vision."""
    text = _inner(fields, "text_config")
    common = {name: text.values[name] for name in _TEXT_FIELDS if name in text.values}
    for name in ("tie_word_embeddings", "quantization_config"):
        if name in fields.values:
            common[name] = fields.values[name]
    experts = _experts_by_modality(text) if architecture.has_experts else [{}]
    config, *of_pictures = (
        ModelConfig.from_fields(ConfigFields(fields.path, {**common, **each}), architecture) for each in experts
    )
    layers = config.num_layers
    return replace(
        config,
        moe=_with_layer_types(config.moe, text, layers),
        vision_moe=_with_layer_types(of_pictures[0].moe, text, layers) if of_pictures else None,
    )


def _inner(fields: ConfigFields, name: str) -> ConfigFields:
    """Return the fields of an object in config.json, or of config.json itself if it is absent."""
    value = fields.values.get(name)
    if value is None:
        return fields
    if not isinstance(value, dict):
        raise fields.error(f"{name} must be an object, found {value!r}")
    return ConfigFields(fields.path, value)


def _experts_by_modality(text: ConfigFields) -> list[dict[str, Any]]:
    """Return the fields of each modality's experts; a number in place of a list is that of all modalities."""
    banks = {name: text.values[name] for name in _BY_MODALITY if name in text.values}
    lengths = {name: len(value) for name, value in banks.items() if isinstance(value, list)}
    if len(set(lengths.values())) > 1 or not set(lengths.values()) <= {1, 2}:
        raise text.error(
            f"lists of experts must have one number for text and one for pictures; their lengths are {lengths}"
        )
    return [
        {name: value[index] if isinstance(value, list) else value for name, value in banks.items()}
        for index in range(max(lengths.values(), default=1))
    ]


def _with_layer_types(bank: MoeConfig | None, text: ConfigFields, num_layers: int) -> MoeConfig | None:
    """Return the experts with the layers of ``mlp_layer_types`` (transformers), if present."""
    types = text.values.get("mlp_layer_types")
    if bank is None or types is None:
        return bank
    is_list = isinstance(types, list) and len(types) == num_layers
    if not is_list or any(each not in _LAYER_TYPES for each in types):
        raise text.error(
            f"mlp_layer_types must be a list of num_hidden_layers {num_layers} words, each one of "
            f"{', '.join(_LAYER_TYPES)}; found {str(types)[:60]}"
        )
    return replace(bank, layers=tuple(layer for layer, kind in enumerate(types) if kind == "sparse"))
