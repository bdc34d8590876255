"""The architectures: what config.json may call a model, how its tensors are named, and what computes it.

The one table of them: a new architecture is an entry here and a file in models/ (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.rotary_config import alternating_axes, contiguous_axes
from ernie_backend.config.vision_shape import VisionShape, ocr_tower, resampler_tower
from ernie_wire.repetition import RepetitionDetection


@dataclass(frozen=True)
class TensorLayout:
    """How a kind of checkpoint names and stores the tensors of a decoder.

    Attributes:
        name: for messages.
        prefix: what the names of tensors begin with.
        qkv: the tensors that one after another are the queries, keys and values of a layer.
        gate_up: the same for the two matrices of an MLP that see its inputs, the gate first.
        is_transposed: whether Linears are stored as ``[inputs, outputs]``; otherwise ``[outputs, inputs]``.
        is_router_transposed: the same for routers.
        tower: what the names of the vision tower's tensors begin with; empty: there is none.
    """

    name: str
    prefix: str
    qkv: tuple[str, ...]
    gate_up: tuple[str, ...]
    is_transposed: bool
    is_router_transposed: bool = False
    tower: str = ""


HUGGINGFACE = TensorLayout(
    "HF", "model.", ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), is_transposed=False
)
PADDLE = TensorLayout(
    "Paddle", "ernie.", ("qkv_proj",), ("up_gate_proj",), is_transposed=True, is_router_transposed=True
)
"""The layout that FastDeploy reads: what is quantized, or cut for ranks, has it."""
VL_HUGGINGFACE = replace(HUGGINGFACE, is_router_transposed=True, tower="vision_model.")
VL_TRANSFORMERS = replace(VL_HUGGINGFACE, tower="model.vision_model.")
"""As transformers saves it; it reads both."""
VL_PADDLE = replace(PADDLE, tower="vision_model.")
OCR_HUGGINGFACE = replace(HUGGINGFACE, tower="visual.vision_model.")
OCR_PADDLE = replace(PADDLE, tower="visual.vision_model.")
"""None is released; FastDeploy reads the other."""


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: that of transformers, by which the rest of the program calls it.
        paddle_name: that of PaddlePaddle, which ``quantize`` writes for FastDeploy.
        model: ``module:class`` of the model file.
        has_experts: whether its layers may have experts.
        tower: reads the vision tower from its fields of config.json; None: text only.
        axes: reads the axis of each rotary pair from the fields and the number of pairs; None: there is one.
        is_interleaved: whether rotary pairs are (2i, 2i + 1); otherwise (i, i + head_dim / 2).
        layouts: those that its checkpoints have, the last one that of what ``quantize`` writes.
        repetition: which loop ends its answers, unless a request says otherwise.
    """

    name: str
    paddle_name: str
    model: str
    has_experts: bool = False
    tower: Callable[[ConfigFields], VisionShape] | None = None
    axes: Callable[[ConfigFields, int], tuple[int, ...]] | None = None
    is_interleaved: bool = True
    layouts: tuple[TensorLayout, ...] = (HUGGINGFACE, PADDLE)
    repetition: RepetitionDetection = RepetitionDetection()  # noqa: RUF009  it is frozen


_MODELS = "ernie_backend.models"
_ERNIE = f"{_MODELS}.ernie4_5:Ernie4_5ForCausalLM"
_VL, _VL_PADDLE = "Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VL_MoeForConditionalGeneration"
_MOE, _OCR = "Ernie4_5_MoeForCausalLM", "PaddleOCRVLForConditionalGeneration"
_PAGE_LOOP = RepetitionDetection(max_pattern_size=512, min_count=8, min_repeated_tokens=2048)
"""No page does that: a picture of 1280 tokens has fewer legible cells than 2048 (docs/ocr.md)."""
_ALL = (
    Architecture("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM", _ERNIE),
    Architecture(_MOE, _MOE, _ERNIE, has_experts=True),
    Architecture(
        _VL,
        _VL_PADDLE,
        f"{_MODELS}.ernie4_5_vl:Ernie4_5_VLMoeForConditionalGeneration",
        has_experts=True,
        tower=resampler_tower,
        axes=alternating_axes,
        layouts=(VL_HUGGINGFACE, VL_TRANSFORMERS, VL_PADDLE),
    ),
    Architecture(
        _OCR,
        _OCR,
        f"{_MODELS}.paddleocr_vl:PaddleOCRVLForConditionalGeneration",
        tower=ocr_tower,
        axes=contiguous_axes,
        is_interleaved=False,
        layouts=(OCR_HUGGINGFACE, OCR_PADDLE),
        repetition=_PAGE_LOOP,
    ),
)
ARCHITECTURES: dict[str, Architecture] = {
    spelling: each for each in _ALL for spelling in (each.name, each.paddle_name)
}
"""By what config.json may call it."""


def find_architecture(fields: ConfigFields) -> Architecture:
    """Return the architecture that a config.json names.

    Raises:
        StartError: the architecture is unknown, or there is not exactly one name.
    """
    named = fields.values.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise fields.error(
            f"architectures must be a list with one name, found {named!r}; known are {', '.join(ARCHITECTURES)}"
        )
    if named[0] not in ARCHITECTURES:
        raise fields.error(f"unknown architecture {named[0]!r}; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[named[0]]
