"""What a model takes its weights from: a checkpoint, or random numbers.

This module must not know files, names or backends.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_backend.weights.roles import Role
from ernie_kernels.api import CacheScales
from ernie_kernels.formats import LinearWeight


class ModelWeights(Protocol):
    """Weights by role, made one at a time: nobody holds two of them but the model."""

    def linear(self, role: Role, layer: int = 0, expert: int = 0) -> LinearWeight:
        """Return the ``[N, K]`` matrix of ``role`` in the format it is kept in."""
        ...

    def vector(self, role: Role, layer: int = 0) -> NDArray[np.float32]:
        """Return the float32 ``[K]`` vector of ``role``."""
        ...

    def cache_scales(self, layer: int) -> CacheScales | None:
        """Return the static scales of a layer's int8 KV cache, if the model brings them."""
        ...
