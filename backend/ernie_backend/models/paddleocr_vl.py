"""PaddleOCR-VL: a small ERNIE-4.5 decoder whose rotary pairs are (i, i + head_dim / 2), with a vision tower."""

from __future__ import annotations

from dataclasses import replace

from ernie_backend.models.ernie4_5 import Ernie4_5ForCausalLM
from ernie_kernels.api import RotarySpec


class PaddleOCRVLForConditionalGeneration(Ernie4_5ForCausalLM):
    """The PaddleOCR-VL decoder and its tower."""

    def _rotary_spec(self, max_positions: int) -> RotarySpec:
        return replace(super()._rotary_spec(max_positions), interleaved=False)
