"""SwiGLU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def swiglu(gate_up: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return silu(gate) * up, ``[T, 2I]`` (gate first) to ``[T, I]``; silu(x) = x / (1 + exp(-x))."""
    gate, up = np.split(gate_up, 2, axis=1)
    with np.errstate(over="ignore"):  # exp(-x) = inf for a very negative x: silu is 0 there
        return gate / (1 + np.exp(-gate)) * up
