"""Every implementation of the ops that this machine can run, by name."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Ops
from ernie_kernels.cpu import CpuOps, instruction_sets
from ernie_kernels.reference import ReferenceOps

CPU_BACKENDS = tuple(f"cpu-{name}" for name in instruction_sets(include_lowered=True))
INTEGER_BACKENDS = ("reference", *CPU_BACKENDS)
"""Those that round activations to integers."""
BACKENDS = (*INTEGER_BACKENDS, "paddle")


ROUNDING_ISAS = {"avx512-lowered", "avx512-bf16", "avx512-amx"}
"""Those that round queries and weights of attention to bfloat16, over caches that are not of float32."""


def rounds_attention(backend: str) -> bool:
    return backend.removeprefix("cpu-") in ROUNDING_ISAS


@functools.cache
def make_ops(name: str) -> Ops:
    if name == "reference":
        return ReferenceOps()
    if name == "paddle":
        from ernie_kernels.paddle import PaddleOps  # here, since make sanitize has no Paddle in its process

        return PaddleOps("cpu")
    return CpuOps(threads=2, instruction_set=name.removeprefix("cpu-"))


def to_host(x: Any) -> NDArray[np.float32]:
    """An array of any implementation, as NumPy's."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.numpy(), np.float32)
