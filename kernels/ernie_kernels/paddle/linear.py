"""Matrices on a Paddle place, and the product with one.

Activations are float32 between ops. A matrix is held in float32, in bfloat16 (where the place multiplies it;
otherwise its values in float32), or as int8 codes with a scale per output (int4 codes too, a byte each), which
are cast to float32 for every product: correct, and slow until a weight-only kernel takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    LinearWeight,
    W4A8Weight,
    bfloat16_to_float32,
    check_activation,
    weight_codes,
)
from ernie_kernels.paddle.activations import StaticInputs, multiply_grouped, multiply_static
from ernie_kernels.paddle.place import Place, Tensor, paddle


@dataclass(frozen=True)
class PackedLinear:
    """A ``[N, K]`` matrix on a place.

    Attributes:
        values: float32 or bfloat16, or int8 codes.
        scales: float32 ``[N]`` for int8 codes, else None.
        activation: how the input is rounded before it meets int8 codes, or bfloat16 values.
    """

    values: Tensor
    scales: Tensor | None
    activation: ActivationType | StaticInputs

    def rows(self, indices: Tensor) -> Tensor:
        """Return the dequantized rows ``indices``: float32 ``[len(indices), K]``."""
        rows = paddle.gather(self.values, indices).astype("float32")
        if self.scales is None:
            return rows
        return rows * paddle.gather(self.scales, indices).unsqueeze(-1)

    def multiply(self, x: Tensor) -> Tensor:
        """Return x @ W.T in float32: ``[T, K]`` to ``[T, N]``."""
        if self.activation is ActivationType.BFLOAT16:
            x = x.astype("bfloat16")
        if self.scales is None:
            return paddle.matmul(x.astype(self.values.dtype), self.values, transpose_y=True).astype("float32")
        if isinstance(self.activation, StaticInputs):
            return multiply_static(x, self.values, self.scales, self.activation)
        if self.activation is not ActivationType.FLOAT32:
            return multiply_grouped(x, self.values, self.scales, self.activation)
        return paddle.matmul(x, self.values.astype("float32"), transpose_y=True) * self.scales


def pack(weight: LinearWeight, activation: ActivationType, place: Place) -> PackedLinear:
    """Bring a weight to ``place``; ValueError if ``activation`` does not fit it."""
    check_activation(weight, activation)
    if isinstance(weight, Float32Weight):
        return PackedLinear(place.upload(weight.values), None, activation)
    if isinstance(weight, Bfloat16Weight):
        if place.has_bfloat16:
            return PackedLinear(place.upload_bfloat16(weight.bits), None, activation)
        return PackedLinear(place.upload(bfloat16_to_float32(weight.bits)), None, activation)
    if isinstance(weight, W4A8Weight):
        codes, scales = place.upload(weight_codes(weight.weight)), place.upload(weight.weight.scales)
        return PackedLinear(codes, scales, StaticInputs.pack(weight, place))
    return PackedLinear(place.upload(weight_codes(weight)), place.upload(weight.scales), activation)
