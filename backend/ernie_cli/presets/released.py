"""The sizes of the released models, by the names of config.json's fields.

No hub could be reached while this was written. The figures come from transformers' and PaddlePaddle/ERNIE's
sources and from counting parameters; what could not be confirmed stands in ``assumed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ernie_backend.config.fields import ConfigFields
from ernie_backend.planning.model_shape import ModelShape, shape_of

_COMMON = {"vocab_size": 103424, "max_position_embeddings": 131072, "head_dim": 128}
_0_3B = {
    **_COMMON,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
}
_21B = {
    **_COMMON,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "moe_num_experts": 64,
    "moe_k": 6,
    "moe_intermediate_size": 1536,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 27,
}
_300B = {
    **_COMMON,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "moe_num_experts": 64,
    "moe_k": 8,
    "moe_intermediate_size": 3584,
    "moe_num_shared_experts": 0,
    "moe_layer_start_index": 3,
    "moe_layer_end_index": 53,
}
_VL_TOWER = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
_VL_28B = {
    **_21B,
    "moe_num_experts": [64, 64],
    "moe_intermediate_size": [1536, 512],
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [29, 28],
    "vision_config": _VL_TOWER,
}
_VL_424B = {
    **_300B,
    "moe_num_experts": [64, 64],
    "moe_intermediate_size": [3584, 1536],
    "moe_layer_start_index": [3, 3],
    "moe_layer_end_index": [53, 53],
    "vision_config": _VL_TOWER,
}
_OCR_TOWER = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
}
_OCR_0_9B = {**_0_3B, "tie_word_embeddings": False, "vision_config": _OCR_TOWER}
_W4A8C8 = {
    "quantization": "mix_quant",
    "dense_quant_type": "wint8",
    "moe_quant_type": "w4a8",
    "kv_cache_quant_type": "int8",
}


@dataclass(frozen=True)
class ReleasedModel:
    """A model that was released.

    Attributes:
        name: without its organisation and without ``-Paddle`` or ``-PT``.
        fields: those of its config.json that decide its size.
        assumed: what of them could not be confirmed, in words.
        num_parts: directories of ranks that it was cut into; 1: it is whole.
    """

    name: str
    fields: Mapping[str, Any]
    assumed: tuple[str, ...] = ()
    num_parts: int = 1

    @property
    def config(self) -> ConfigFields:
        """Its config.json."""
        return ConfigFields(Path(self.name, "config.json"), self.fields)

    @property
    def shape(self) -> ModelShape:
        """Its sizes."""
        return replace(shape_of(self.config), num_parts=self.num_parts)


def _released(
    architecture: str, name: str, fields: Mapping[str, Any], *assumed: str, num_parts: int = 1
) -> ReleasedModel:
    return ReleasedModel(name, {"architectures": [architecture], **fields}, assumed, num_parts)


_TEXT, _EXPERTS = "Ernie4_5_ForCausalLM", "Ernie4_5_MoeForCausalLM"
_VL, _OCR = "Ernie4_5_VLMoeForConditionalGeneration", "PaddleOCRVLForConditionalGeneration"
_MODELS = (
    _released(_TEXT, "ERNIE-4.5-0.3B", {**_0_3B, "tie_word_embeddings": True}),
    _released(_EXPERTS, "ERNIE-4.5-21B-A3B", _21B),
    _released(_EXPERTS, "ERNIE-4.5-300B-A47B", _300B),
    _released(
        _EXPERTS,
        "ERNIE-4.5-300B-A47B-W4A8C8-TP4",
        {**_300B, "quantization_config": _W4A8C8},
        "the keys of quantization_config",
        num_parts=4,
    ),
    _released(_VL, "ERNIE-4.5-VL-28B-A3B", _VL_28B),
    _released(_VL, "ERNIE-4.5-VL-28B-A3B-Thinking", _VL_28B, "the architecture: that of ERNIE-4.5-VL-28B-A3B"),
    _released(
        _VL,
        "ERNIE-4.5-VL-424B-A47B",
        _VL_424B,
        "the widths of the experts, 3584 and 1536",
        "no shared experts",
        "the layers with experts, 3 to 53",
        "an output head of its own",
    ),
    _released(_OCR, "PaddleOCR-VL", _OCR_0_9B),
    _released(_OCR, "PaddleOCR-VL-1.5", _OCR_0_9B, "the sizes: those of PaddleOCR-VL"),
    _released(_OCR, "PaddleOCR-VL-1.6", _OCR_0_9B, "the sizes: those of PaddleOCR-VL"),
)
RELEASED: Mapping[str, ReleasedModel] = {model.name: model for model in _MODELS}


def released_model(model: str) -> ReleasedModel | None:
    """Return the released model of a name or hub id, in any case, or None."""
    tail = model.rpartition("/")[2].lower().removesuffix("-paddle").removesuffix("-pt")
    return next((each for each in _MODELS if each.name.lower() == tail), None)
