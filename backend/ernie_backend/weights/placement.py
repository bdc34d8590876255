"""In which format each weight of a model is kept.

The one place for this rule: the loader follows it, and whatever plans memory must. ``dtype`` is the format of
what is not quantized. Under ``wint8`` all Linears of the decoder and the output head are int8; a tied embedding
is the head, so its one int8 copy serves lookup and head, while an untied lookup table stays bfloat16. ``wint4``
is the same but for the routed experts, which are int4; under ``w4a8`` these meet int8 inputs. Routers are
float32 always: a rounded one would choose other experts.

This module must not know files, names or shapes.
"""

from __future__ import annotations

import enum

from ernie_backend.errors import StartError
from ernie_backend.weights.roles import Role
from ernie_kernels.formats import ActivationType

DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("wint8", "wint4", "w4a8")
EXPERT_ROLES = frozenset({Role.EXPERT_GATE_UP, Role.EXPERT_DOWN})
"""The routed experts: most of a model, and the least of what a token reads."""


class WeightFormat(enum.Enum):
    """The formats of ``ernie_kernels.formats``."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"
    W4A8 = "w4a8"


_EXPERT_FORMATS = {"wint4": WeightFormat.INT4, "w4a8": WeightFormat.W4A8}


def check_format_settings(dtype: str, quantization: str | None) -> None:
    """Raise StartError unless ``dtype`` and ``quantization`` name formats that exist."""
    if dtype not in DTYPES:
        raise StartError(f"dtype {dtype!r} is not supported; choose from {', '.join(DTYPES)}")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise StartError(
            f"quantization {quantization!r} is not supported; choose from {', '.join(QUANTIZATIONS)}, or none"
        )


def check_activation_setting(activation: ActivationType, dtype: str, quantization: str | None) -> None:
    """Raise StartError if ``activation`` rounds the inputs of weights that this model would not have."""
    if activation is not ActivationType.BFLOAT16 or (dtype == "bfloat16" and quantization is None):
        return
    found = f"dtype is {dtype!r}" if quantization is None else f"quantization is {quantization!r}"
    raise StartError(
        f"activation_dtype is 'bfloat16', which is for bfloat16 weights, but {found}; "
        "use float32, int16 or int8, or dtype bfloat16 without quantization"
    )


def weight_format(role: Role, dtype: str, quantization: str | None, *, is_tied: bool) -> WeightFormat:
    """Return the format of the matrix that plays ``role``."""
    if role is Role.ROUTER:
        return WeightFormat.FLOAT32
    if quantization is None:
        return WeightFormat(dtype)
    if role is Role.EMBEDDING and not is_tied:
        return WeightFormat.BFLOAT16
    if role in EXPERT_ROLES and quantization in _EXPERT_FORMATS:
        return _EXPERT_FORMATS[quantization]
    return WeightFormat.INT8
