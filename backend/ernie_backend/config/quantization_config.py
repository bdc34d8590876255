"""``quantization_config`` of a config.json: which weights the checkpoint holds quantized, and how.

The keys are those of FastDeploy's offline-quantized checkpoints. ``quantization`` names a format, or is
``mix_quant`` with a format for the dense Linears and one for the routed experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ernie_backend.config.fields import ConfigFields
from ernie_kernels.formats import WEIGHT_GROUP

QUANTIZATION_CONFIG = "quantization_config"
FORMAT_KEYS = ("quantization", "dense_quant_type", "moe_quant_type")
HADAMARD_BLOCK = 128
"""Default block of the rotation of the inputs of an expert's down matrix under w4a8, as in FastDeploy, which
hands it to its kernel. docs/quantization.md has what else FastDeploy reads, and what follows from it."""

_PARTS: Mapping[str, tuple[str, str]] = {
    "wint8": ("wint8", "wint8"),
    "wint4": ("wint8", "wint4"),
    "wint4_all": ("wint4", "wint4"),
    "w4a8": ("wint8", "w4a8"),
}
"""The name that ``--quantization`` has -> (dense_quant_type, moe_quant_type)."""
_GROUP_SIZE = "dense_quant_group_size"
"""Not FastDeploy's, which has no groups of dense weights; named like its ``moe_w2_quant_group_size``."""


@dataclass(frozen=True)
class QuantizationConfig:
    """How a checkpoint's weights are quantized.

    Attributes:
        quantization: ``wint8``, ``wint4`` (experts), ``wint4_all`` or ``w4a8`` (experts), as for
            ``--quantization``.
        has_cache_scales: whether it brings static scales for an int8 KV cache.
        hadamard_block: numbers that are rotated together before an expert's down matrix under ``w4a8``.
    """

    quantization: str
    has_cache_scales: bool = False
    hadamard_block: int = HADAMARD_BLOCK

    @property
    def expert_block(self) -> int:
        """Inputs of an expert's down matrix that stay together: those of a byte, or of a rotation."""
        return {"wint8": 1, "wint4": 2, "wint4_all": 2, "w4a8": self.hadamard_block}[self.quantization]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``read_quantization_config`` reads, in FastDeploy's words."""
        dense, experts = _PARTS[self.quantization]
        fields: dict[str, Any] = {
            "quantization": "mix_quant",
            "dense_quant_type": dense,
            "moe_quant_type": experts,
            "is_quantized": True,
            "is_permuted": False,
            "hadamard_block_size": self.hadamard_block,
        }
        if dense == "wint4":
            fields[_GROUP_SIZE] = WEIGHT_GROUP
        if self.has_cache_scales:
            fields |= {"kv_cache_quant_type": "int8", "is_channel_wise": True, "has_zero_point": False}
        return fields


def read_quantization_config(config: ConfigFields) -> QuantizationConfig | None:
    """Return what a config.json says; None if its weights are not quantized.

    Raises:
        StartError: it names something unsupported; the message has the key, its value and the supported ones.
    """
    content = config.values.get(QUANTIZATION_CONFIG)
    if content is None:
        return None
    if not isinstance(content, dict):
        raise config.error(f"{QUANTIZATION_CONFIG} must be an object, found {content!r}")
    fields = ConfigFields(config.path, content)
    _check_method(fields)
    if fields.flag("has_zero_point", default=False):
        raise fields.error(f"{QUANTIZATION_CONFIG}.has_zero_point is true; KV caches are symmetric here")
    quantization = _quantization(fields)
    if quantization == "wint4_all" and fields.values.get(_GROUP_SIZE) != WEIGHT_GROUP:
        raise fields.error(
            f"{QUANTIZATION_CONFIG}.{_GROUP_SIZE} is {fields.values.get(_GROUP_SIZE)!r}; dense wint4 weights "
            f"have a scale for {WEIGHT_GROUP} inputs: make another checkpoint by ernie-triton quantize"
        )
    _check_order(config, fields, quantization)
    block = fields.integer("hadamard_block_size", 2, default=HADAMARD_BLOCK)
    return QuantizationConfig(quantization, _has_cache_scales(fields), block)


def _check_method(fields: ConfigFields) -> None:
    """Refuse checkpoints of other tools, which name their method and store other tensors."""
    method = fields.values.get("quant_method")
    if method is not None and method != fields.values.get("quantization"):
        raise fields.error(
            f"{QUANTIZATION_CONFIG}.quant_method is {method!r}: weights of this method cannot be read; give "
            "the float checkpoint that they were made from, with --quantization wint8 or wint4 to quantize it"
        )


def _quantization(fields: ConfigFields) -> str:
    """Return the one format that all keys with a type agree on."""
    named, dense, experts = (_name(fields, key) for key in FORMAT_KEYS)
    if name := format_name(named, dense, experts):
        return name
    known = "; ".join(f"{dense} and {experts}" for dense, experts in _PARTS.values())
    raise fields.error(
        f"{QUANTIZATION_CONFIG}.quantization is {named!r}, dense_quant_type {dense!r}, moe_quant_type "
        f"{experts!r}; known are {', '.join(_PARTS)}, or mix_quant with the types {known}"
    )


def format_name(named: str | None, dense: str | None, experts: str | None) -> str | None:
    """Return the value of ``--quantization`` that FastDeploy's three keys mean together, or None."""
    for name, parts in _PARTS.items():
        if named == "mix_quant" and (dense, experts) == parts:
            return name
        if named == name and dense in (None, parts[0]) and experts in (None, parts[1]):
            return name
    return None


def _check_order(config: ConfigFields, fields: ConfigFields, quantization: str) -> None:
    """Refuse codes in the order of a GPU kernel, which come with scales of that kernel.

    FastDeploy's rule: ``is_permuted`` says so for the experts' weights, by default they are. It counts only if
    they were quantized offline, which ``is_quantized`` says, else ``is_moe_quantized``; by default they were,
    unless a type of KV cache is given. Only under w4a8 do both orders have the same shapes, so nothing else
    would reveal it; other formats may leave the key out.
    """
    # The defaults are FastDeploy's; older files have is_quantized at the top of config.json.
    of_experts = fields.flag("is_moe_quantized", default="kv_cache_quant_type" not in fields.values)
    is_quantized = fields.flag("is_quantized", default=of_experts) or config.flag("is_quantized", default=False)
    if not is_quantized or not fields.flag("is_permuted", default=quantization == "w4a8"):
        return
    state = "is true" if "is_permuted" in fields.values else "is missing, which means true"
    raise fields.error(
        f"{QUANTIZATION_CONFIG}.is_permuted {state}: codes in the order of a GPU kernel, which cannot be read; "
        "set it to false if they are in plain order (docs/quantization.md), or make another checkpoint by "
        "ernie-triton quantize"
    )


def _has_cache_scales(fields: ConfigFields) -> bool:
    named = _name(fields, "kv_cache_quant_type")
    if named not in (None, "", "none", "int8"):
        raise fields.error(
            f"{QUANTIZATION_CONFIG}.kv_cache_quant_type is {named!r}; known is int8, a scale for each channel"
        )
    return named == "int8"


def _name(fields: ConfigFields, key: str) -> str | None:
    value = fields.values.get(key)
    if value is not None and not isinstance(value, str):
        raise fields.error(f"{QUANTIZATION_CONFIG}.{key} must be a string, found {value!r}")
    return value
