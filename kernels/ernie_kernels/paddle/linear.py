"""Matrices on a Paddle place, and the product with one.

A product has the type of its input: bfloat16 on an XPU, float32 on Paddle's CPU place. A matrix is held in
float32, in bfloat16 (where the place multiplies it; otherwise its values in float32), or as int8 codes with a
scale per output (int4 codes too, a byte each). Codes meet bfloat16 inputs in Paddle's ``weight_only_linear``,
of which an XPU has the kernel; float32 inputs meet them in float32, the same numbers, which the CPU place can
compute. Neither emulates the integer activations of the CPU kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    GroupedInt4Weight,
    LinearWeight,
    W4A8Weight,
    bfloat16_to_float32,
    check_activation,
    weight_codes,
)
from ernie_kernels.paddle.activations import StaticInputs, multiply_static
from ernie_kernels.paddle.place import BFLOAT16, Place, Tensor, paddle

_CODE_OF_ABSMAX = np.float32(127)


@dataclass(frozen=True)
class PackedLinear:
    """A ``[N, K]`` matrix on a place.

    Attributes:
        values: float32 or bfloat16, or int8 codes.
        absmax: float32 ``[N]`` for int8 codes, what the code 127 stands for; else None. This is the scale that
            the XPU's ``weight_only_linear`` takes.
        scales: float32 ``[N]``, what the code 1 stands for.
        activation: how the input is rounded before it meets the values.
    """

    values: Tensor
    absmax: Tensor | None
    scales: Tensor | None
    activation: ActivationType | StaticInputs

    def rows(self, indices: Tensor) -> Tensor:
        """Return the dequantized rows ``indices``: ``[len(indices), K]``, float32 unless they are bfloat16."""
        rows = paddle.gather(self.values, indices)
        if self.scales is None:
            return rows
        return rows.astype("float32") * paddle.gather(self.scales, indices).unsqueeze(-1)

    def multiply(self, x: Tensor) -> Tensor:
        """Return x @ W.T in the type of x: ``[T, K]`` to ``[T, N]``."""
        if isinstance(self.activation, StaticInputs):
            wide = x.astype("float32")
            return multiply_static(wide, self.values, self.scales, self.activation).astype(x.dtype)
        if self.scales is not None and x.dtype == paddle.bfloat16:
            return paddle.nn.quant.weight_only_linear(
                x, self.values, weight_scale=self.absmax, weight_dtype="int8", arch=0
            )
        inputs = x.astype(BFLOAT16) if self.activation is ActivationType.BFLOAT16 else x
        if self.scales is None:
            product = paddle.matmul(inputs.astype(self.values.dtype), self.values, transpose_y=True)
            return product.astype(x.dtype)
        codes = self.values.astype("float32")
        return paddle.matmul(inputs.astype("float32"), codes, transpose_y=True) * self.scales


def pack(weight: LinearWeight, activation: ActivationType, place: Place) -> PackedLinear:
    """Bring a weight to ``place``; ValueError if ``activation`` does not fit it."""
    if isinstance(weight, Float32Weight | Bfloat16Weight):
        check_activation(weight, activation)
        return PackedLinear(_upload_floats(weight, place), None, None, activation)
    if isinstance(weight, W4A8Weight):
        codes, scales = place.upload(weight_codes(weight.weight)), place.upload(weight.weight.scales)
        return PackedLinear(codes, None, scales, StaticInputs.pack(weight, place))
    if isinstance(weight, GroupedInt4Weight):
        raise ValueError(  # noqa: TRY004 - as for other formats that do not fit
            "int4 in groups of inputs is for the CPU's kernels; those of Paddle have one scale per output"
        )
    if activation not in (ActivationType.FLOAT32, ActivationType.BFLOAT16):
        raise ValueError(
            f"activation {activation.value} is for the CPU's kernels; those of Paddle take bfloat16 or float32"
        )
    absmax, scales = (place.upload(weight.scales * factor) for factor in (_CODE_OF_ABSMAX, np.float32(1)))
    return PackedLinear(place.upload(weight_codes(weight)), absmax, scales, activation)


def _upload_floats(weight: Float32Weight | Bfloat16Weight, place: Place) -> Tensor:
    if isinstance(weight, Float32Weight):
        return place.upload(weight.values)
    if place.has_bfloat16:
        return place.upload_bfloat16(weight.bits)
    return place.upload(bfloat16_to_float32(weight.bits))
