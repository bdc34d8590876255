"""In which format each weight of a model is kept in memory.

Loader, quantizer and planner follow this one rule. ``dtype`` is the format of what is not quantized. Under
``wint8`` all Linears of the decoder and the output head are int8; a tied embedding is the head, so its one int8
copy serves lookup and head, while an untied lookup table stays bfloat16, as does a vision tower. On an XPU the
head stays bfloat16 too, as in FastDeploy. ``wint4`` is the same except for the routed experts, which are int4;
under ``w4a8`` these meet int8 inputs. ``wint4_all`` is ``wint4`` with all other Linears of the decoder in int4
too, in groups of inputs; the head stays int8. Routers are always float32: a rounded one would choose other
experts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.weights.roles import ROUTED, ROUTERS, Role
from ernie_kernels.formats import ActivationType

DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("wint8", "wint4", "wint4_all", "w4a8")
OF_EXPERTS = ("wint4", "w4a8")
"""Those that a model without experts has no use for."""


class WeightFormat(enum.Enum):
    """The formats of ``ernie_kernels.formats``."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"
    GROUPED_INT4 = "int4-groups"
    W4A8 = "w4a8"


QUANTIZED = (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.GROUPED_INT4, WeightFormat.W4A8)
SCALED_BY_ROW = (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.W4A8)
"""Those whose scale of an output covers all its inputs."""
_CAREFUL = frozenset({Role.QKV, Role.DOWN})
"""Linears whose inputs stay int16 under int8: with them in int8, the next token diverges more than with
llama.cpp's Q8_0 rule (docs/quality.md). They are 40 % of a dense layer's work; experts are not among them."""
_EXPERT_FORMATS = {"wint4": WeightFormat.INT4, "wint4_all": WeightFormat.INT4, "w4a8": WeightFormat.W4A8}


@dataclass(frozen=True)
class Precision:
    """What the settings say about a model's weights.

    Attributes:
        dtype: ``float32`` or ``bfloat16``.
        quantization: None, or one of ``QUANTIZATIONS``.
        is_tied: whether the embedding is the output head too.
        has_int8_head: whether quantization includes the output head.

    Raises:
        StartError: ``dtype`` or ``quantization`` names no format.
    """

    dtype: str
    quantization: str | None
    is_tied: bool
    has_int8_head: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise StartError(f"dtype {self.dtype!r} is not supported; choose from {', '.join(DTYPES)}")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise StartError(
                f"quantization {self.quantization!r} is not supported; choose from {', '.join(QUANTIZATIONS)}, "
                "or none"
            )

    def format_of(self, role: Role) -> WeightFormat:
        """Return the format of the matrix with ``role``."""
        if role in ROUTERS:
            return WeightFormat.FLOAT32
        if self.quantization is None:
            return WeightFormat(self.dtype)
        is_lookup = role is Role.EMBEDDING and not self.is_tied
        is_head = role in (Role.EMBEDDING, Role.HEAD) and not self.has_int8_head
        if is_lookup or is_head or role.is_tower:
            return WeightFormat.BFLOAT16
        if role in ROUTED and self.quantization in _EXPERT_FORMATS:
            return _EXPERT_FORMATS[self.quantization]
        if self.quantization == "wint4_all" and role not in (Role.EMBEDDING, Role.HEAD):
            return WeightFormat.GROUPED_INT4
        return WeightFormat.INT8


def activation_of(role: Role, activation: ActivationType) -> ActivationType:
    """Return how the inputs of the matrix with ``role`` are rounded under a setting."""
    is_careful = activation is ActivationType.INT8 and role in _CAREFUL
    return ActivationType.INT16 if is_careful else activation


def check_activation_setting(activation: ActivationType, dtype: str, quantization: str | None) -> None:
    """Raise StartError if ``activation`` rounds the inputs of weights that this model would not have."""
    if activation is not ActivationType.BFLOAT16 or (dtype == "bfloat16" and quantization is None):
        return
    setting = f"dtype is {dtype!r}" if quantization is None else f"quantization is {quantization!r}"
    raise StartError(
        f"activation_dtype is 'bfloat16', which is for bfloat16 weights, but {setting}; "
        "use float32, int16 or int8, or dtype bfloat16 without quantization"
    )
