"""Imports Paddle without its warnings, and brings NumPy arrays to one place (``cpu`` or ``xpu:0``)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    # Paddle warns at import about a compiler cache and the like, which do not matter for serving.
    warnings.simplefilter("ignore")
    import paddle

__all__ = ["BFLOAT16", "Place", "Tensor", "paddle"]

BFLOAT16 = "bfloat16"

Tensor = Any
"""A Paddle tensor; Paddle's own annotations are too loose to check against."""


@dataclass(frozen=True)
class Place:
    """A device, and what it can do.

    Attributes:
        name: Paddle's name of it.
        has_bfloat16: whether it computes in bfloat16 and has the fused ops for it (``weight_only_linear``,
            ``fused_rms_norm``, ``swiglu``), as an XPU does; Paddle's CPU place only has float32.
    """

    name: str
    has_bfloat16: bool

    @classmethod
    def select(cls, name: str) -> Place:
        """Make ``name`` Paddle's current device.

        Raises:
            ValueError: ``name`` is neither ``cpu`` nor ``xpu:N``.
            RuntimeError: this Paddle was built without XPU, or there is no such card.
        """
        kind, _, index = name.partition(":")
        if name != "cpu" and not (kind == "xpu" and index.isdigit()):
            raise ValueError(f"place {name!r} is unknown; choose cpu or xpu:0, xpu:1, ...")
        if kind == "xpu" and not paddle.is_compiled_with_xpu():
            raise RuntimeError(
                f"place {name} needs paddlepaddle-xpu; the installed Paddle {paddle.__version__} is without XPU"
            )
        paddle.set_device(name)
        return cls(name, has_bfloat16=kind == "xpu")

    @property
    def dtype(self) -> str:
        """Type of activations between ops."""
        return BFLOAT16 if self.has_bfloat16 else "float32"

    @property
    def host(self) -> Place:
        """The place of tensors in the host's memory."""
        return Place("cpu", has_bfloat16=False)

    def free_bytes(self) -> int | None:
        """Return the card's memory that no process has taken; None on a CPU place."""
        if not self.name.startswith("xpu"):
            return None
        return int(paddle.device.xpu.memory_total(self.name) - paddle.device.xpu.memory_used(self.name))

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        """Copy an array here."""
        return paddle.to_tensor(values, place=self.name)

    def upload_bfloat16(self, bits: NDArray[np.uint16]) -> Tensor:
        """Copy bfloat16 bits here, as bfloat16."""
        return paddle.to_tensor(bits, dtype=BFLOAT16, place=self.name)
