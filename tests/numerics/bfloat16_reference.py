"""The reference with every result between ops rounded to bfloat16, as ops on an XPU keep them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, ExpertBank, MlpWeights
from ernie_kernels.formats import ActivationType, LinearWeight, round_to_bfloat16
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.reference.attention import ReferenceCache
from ernie_kernels.reference.moe import ReferenceMoe
from ernie_kernels.reference.ops import ReferenceLinear, swiglu
from ernie_kernels.rotary import RotaryTable

Floats = NDArray[np.float32]
FLOAT32 = ActivationType.FLOAT32


class Bfloat16Reference(ReferenceOps):
    """Weights that are quantized stay so; inputs are bfloat16 already, so none is rounded again."""

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> ReferenceLinear:
        return super().pack_linear(weight, FLOAT32)

    def pack_moe(
        self,
        banks: Sequence[ExpertBank],
        shared: MlpWeights | None,
        activation: ActivationType,
    ) -> ReferenceMoe:
        return super().pack_moe(banks, shared, FLOAT32)

    def pack_vector(self, values: Floats) -> Floats:
        return round_to_bfloat16(values)

    def embed(self, table: ReferenceLinear, batch: Batch) -> Floats:
        return round_to_bfloat16(super().embed(table, batch))

    def norm(self, x: Floats, weight: Floats, epsilon: float) -> Floats:
        return round_to_bfloat16(super().norm(x, weight, epsilon))

    def add_norm(self, x: Floats, delta: Floats, weight: Floats, epsilon: float) -> tuple[Floats, Floats]:
        total = round_to_bfloat16(x + delta)
        return total, self.norm(total, weight, epsilon)

    def linear(self, x: Floats, weight: ReferenceLinear, bias: Floats | None = None) -> Floats:
        return round_to_bfloat16(super().linear(x, weight, bias))

    def mlp(self, x: Floats, gate_up: ReferenceLinear, down: ReferenceLinear) -> Floats:
        return self.linear(round_to_bfloat16(swiglu(self.linear(x, gate_up))), down)

    def moe(self, x: Floats, layer: ReferenceMoe, batch: Batch) -> Floats:
        return round_to_bfloat16(super().moe(x, layer, batch))

    def attention(self, qkv: Floats, rotary: RotaryTable, cache: ReferenceCache, batch: Batch) -> Floats:
        return round_to_bfloat16(super().attention(qkv, rotary, cache, batch))
