"""Matrices for ``weight_only_linear_xpu``."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_kernels.fastdeploy.attention import first
from ernie_kernels.fastdeploy.library import Library
from ernie_kernels.paddle.linear import PackedLinear
from ernie_kernels.paddle.place import Tensor, paddle


@dataclass(frozen=True)
class WeightOnlyLinear(PackedLinear):
    """A ``[N, K]`` matrix of int8 codes, whose scales are the absmax of each output."""

    library: Library

    def multiply(self, x: Tensor) -> Tensor:
        """Return x @ W.T in the type of x."""
        if x.dtype != paddle.bfloat16:
            return super().multiply(x)
        return first(
            self.library.weight_only_linear_xpu(
                x=x,
                weight=self.values,
                weight_scale=self.absmax,
                bias=None,
                weight_dtype="int8",
                arch=-1,
                group_size=-1,
            )
        )
