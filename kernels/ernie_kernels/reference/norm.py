"""RMSNorm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]:
    """Return x / sqrt(mean(x^2) + epsilon) * weight, ``[T, K]``."""
    mean_square = np.mean(np.square(x), axis=1, keepdims=True)
    normed: NDArray[np.float32] = x / np.sqrt(mean_square + np.float32(epsilon)) * weight
    return normed
