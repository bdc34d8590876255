"""An ``Ops`` that passes every call on and keeps what the residual stream was: models need no hooks for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from ernie_kernels.api import Ops
from numpy.typing import NDArray


class RecordingOps:
    """Records of one model's steps.

    Attributes:
        residuals: the embeddings, then the residual stream after each addition: 1 + 2 * layers per step.
        normed: the norm of each of them.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.residuals: list[NDArray[np.float32]] = []
        self.normed: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def embed(self, *arguments: Any) -> Any:
        embedded = self._ops.embed(*arguments)
        self.residuals.append(self._ops.download(embedded).copy())
        return embedded

    def norm(self, *arguments: Any) -> Any:
        normed = self._ops.norm(*arguments)
        self.normed.append(self._ops.download(normed).copy())
        return normed

    def add_norm(self, *arguments: Any) -> Any:
        total, normed = self._ops.add_norm(*arguments)
        self.residuals.append(self._ops.download(total).copy())
        self.normed.append(self._ops.download(normed).copy())
        return total, normed
