"""What ``quantization_config`` of a config.json says: which weights the checkpoint holds quantized, and how.

The keys are those of FastDeploy's offline-quantized checkpoints. ``quantization`` names a format, or is
``mix_quant`` with a format for the dense Linears and one for the routed experts. This module must not know
tensors or how anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ernie_backend.config_fields import ConfigFields

QUANTIZATION_CONFIG = "quantization_config"
HADAMARD_BLOCK = 128
"""Default block of the rotation of the inputs of an expert's down matrix under w4a8. An assumption: FastDeploy
hands this block to its kernel; that it is these inputs, and that a checkpoint's weights are rotated already,
was concluded from where it does so. Our converter writes and our loader reads checkpoints in this way."""

_BY_PARTS: Mapping[tuple[str, str], str] = {
    ("wint8", "wint8"): "wint8",
    ("wint8", "wint4"): "wint4",
    ("wint8", "w4a8"): "w4a8",
}
"""(dense_quant_type, moe_quant_type) -> the name that ``--quantization`` has for it."""


@dataclass(frozen=True)
class StoredQuantization:
    """How a checkpoint's weights are quantized.

    Attributes:
        quantization: ``wint8``, ``wint4`` (experts) or ``w4a8`` (experts), as for ``--quantization``.
        has_cache_scales: whether it brings static scales for an int8 KV cache.
        hadamard_block: numbers that are rotated together before an expert's down matrix under ``w4a8``.
    """

    quantization: str
    has_cache_scales: bool = False
    hadamard_block: int = HADAMARD_BLOCK

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``read_stored_quantization`` reads, in FastDeploy's words."""
        dense, experts = next(parts for parts, name in _BY_PARTS.items() if name == self.quantization)
        fields: dict[str, Any] = {
            "quantization": "mix_quant",
            "dense_quant_type": dense,
            "moe_quant_type": experts,
            "is_quantized": True,
            "is_permuted": False,
            "hadamard_block_size": self.hadamard_block,
        }
        if self.has_cache_scales:
            fields |= {"kv_cache_quant_type": "int8", "is_channel_wise": True, "has_zero_point": False}
        return fields


def read_stored_quantization(config: ConfigFields) -> StoredQuantization | None:
    """Return what a config.json says; None if its weights are not quantized.

    Raises:
        StartError: it names what does not exist here; names the key, its value and what would be right.
    """
    content = config.values.get(QUANTIZATION_CONFIG)
    if content is None:
        return None
    if not isinstance(content, dict):
        raise config.error(f"{QUANTIZATION_CONFIG} must be an object, found {content!r}")
    fields = ConfigFields(config.path, content)
    if fields.flag("has_zero_point", default=False):
        raise fields.error(f"{QUANTIZATION_CONFIG}.has_zero_point is true; KV caches are symmetric here")
    block = fields.integer("hadamard_block_size", 2, default=HADAMARD_BLOCK)
    return StoredQuantization(_quantization(fields), _has_cache_scales(fields), block)


def _quantization(fields: ConfigFields) -> str:
    named = fields.values.get("quantization")
    parts: tuple[Any, Any] = (named, named)
    if named == "mix_quant":
        parts = (fields.values.get("dense_quant_type"), fields.values.get("moe_quant_type"))
    elif named in ("wint4", "w4a8"):
        parts = ("wint8", named)
    if parts not in _BY_PARTS:
        known = "; ".join(f"{dense} and {experts}" for dense, experts in _BY_PARTS)
        raise fields.error(
            f"{QUANTIZATION_CONFIG}.quantization is {named!r}, dense_quant_type {parts[0]!r}, moe_quant_type "
            f"{parts[1]!r}; known are wint8, wint4, w4a8, or mix_quant with the types {known}"
        )
    return _BY_PARTS[parts]


def _has_cache_scales(fields: ConfigFields) -> bool:
    named = fields.values.get("kv_cache_quant_type")
    if named not in (None, "", "none", "int8"):
        raise fields.error(
            f"{QUANTIZATION_CONFIG}.kv_cache_quant_type is {named!r}; known is int8, a scale for each channel"
        )
    return bool(named == "int8")
