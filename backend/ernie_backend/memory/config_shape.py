"""Reads the sizes of a model from config.json: text, experts, vision-language and OCR, HF and Paddle alike.

The HF layout keeps the decoder of a model with vision under ``text_config``, the Paddle layout beside
``vision_config``. Experts of the two modalities stand in lists of two there. This module must not know
settings or devices, and reads nothing but config.json.
"""

from __future__ import annotations

from pathlib import Path

from ernie_backend.config_fields import ConfigFields
from ernie_backend.memory.model_shape import ExpertBank, ExpertShape, ModelShape, VisionShape
from ernie_backend.memory.vision_sizes import ocr_tower, resampler_tower
from ernie_backend.model_config import last_expert_layer
from ernie_backend.stored_quantization import read_stored_quantization

TEXT = frozenset({"Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM", "Ernie4_5_MoeForCausalLM"})
VISION = frozenset({"Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VL_MoeForConditionalGeneration"})
OCR = frozenset({"PaddleOCRVLForConditionalGeneration"})


def read_shape(directory: Path) -> ModelShape:
    """Return the sizes in ``directory/config.json``; see ``shape_of`` for the errors."""
    return shape_of(ConfigFields.read(directory / "config.json"))


def shape_of(fields: ConfigFields) -> ModelShape:
    """Return the sizes that the fields of a config.json say.

    Raises:
        StartError: the architecture is unknown, or a field is missing or impossible.
    """
    architecture = _architecture(fields)
    text = _inner(fields, "text_config")
    hidden, heads = text.size("hidden_size"), text.size("num_attention_heads")
    layers = text.size("num_hidden_layers")
    has_own_tie = "tie_word_embeddings" in fields.values
    stored = read_stored_quantization(fields)
    return ModelShape(
        vocab_size=text.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=text.size("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=text.size("num_key_value_heads", default=heads),
        head_dim=text.size("head_dim", default=hidden // heads),
        max_positions=text.size("max_position_embeddings"),
        is_tied=(fields if has_own_tie else text).flag("tie_word_embeddings", default=True),
        experts=_experts(text, layers) if "moe_num_experts" in text.values else None,
        vision=None if architecture in TEXT else _vision(fields, hidden, is_ocr=architecture in OCR),
        quantization=stored.quantization if stored else None,
        has_cache_scales=stored is not None and stored.has_cache_scales,
    )


def _architecture(fields: ConfigFields) -> str:
    named = fields.values.get("architectures")
    known = sorted(TEXT | VISION | OCR)
    if not isinstance(named, list) or len(named) != 1 or named[0] not in known:
        raise fields.error(f"architectures is {named!r}; known are {', '.join(known)}")
    return str(named[0])


def _inner(fields: ConfigFields, name: str) -> ConfigFields:
    """Return the fields of an object in config.json, or its own where there is none."""
    value = fields.values.get(name)
    if value is None:
        return fields
    if not isinstance(value, dict):
        raise fields.error(f"{name} must be an object, found {value!r}")
    return ConfigFields(fields.path, value)


def _experts(text: ConfigFields, num_layers: int) -> ExpertShape:
    widths = _each(text, "moe_intermediate_size")
    counts = _each(text, "moe_num_experts") * len(widths)
    starts = _each(text, "moe_layer_start_index", 0) * len(widths)
    ends = _each(text, "moe_layer_end_index", -1) * len(widths)
    interval = text.size("moe_layer_interval", default=1)
    banks = []
    for count, width, start, end in zip(counts, widths, starts, ends, strict=False):
        candidates = range(start, last_expert_layer(end, num_layers) + 1)
        layers = sum((layer + 1) % interval == 0 for layer in candidates)
        banks.append(ExpertBank(count, width, _sparse_layers(text, layers)))
    shared = text.integer("moe_num_shared_experts", 0, default=0)
    return ExpertShape(tuple(banks), text.size("moe_k"), shared * widths[0])


def _each(text: ConfigFields, name: str, default: int | None = None) -> list[int]:
    """Return a number as a list of one; a list, one number for each modality, as it is."""
    value = text.values.get(name, default)
    values = value if isinstance(value, list) and value else [value]
    least = -1 if default == -1 else 0 if default == 0 else 1
    return [ConfigFields(text.path, {name: each}).integer(name, least) for each in values]


def _sparse_layers(text: ConfigFields, otherwise: int) -> int:
    """Return how many layers ``mlp_layer_types`` calls sparse: how transformers writes where experts are."""
    kinds = text.values.get("mlp_layer_types")
    return kinds.count("sparse") if isinstance(kinds, list) else otherwise


def _vision(fields: ConfigFields, hidden: int, *, is_ocr: bool) -> VisionShape:
    tower = _inner(fields, "vision_config")
    return ocr_tower(tower, hidden) if is_ocr else resampler_tower(tower, hidden)
