"""An ``Ops`` that passes every call on and keeps what went through: models need no hooks for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ExpertBank, Ops
from ernie_kernels.routing import RouterWeights, Routing
from numerics.backends import to_host
from numerics.routing import routing_of

Floats = NDArray[np.float32]


class RecordingOps:
    """Records of one model's steps.

    Attributes:
        residuals: the embeddings, then the residual stream after each addition: 1 + 2 * layers per step.
        normed: the norm of each of them.
        products: input and result of each ``linear``, ``mlp`` and ``moe``, in order: 3 * layers per step.
        routings: where the first bank of each ``moe`` would send all rows, the expert of the largest weight
            first.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.residuals: list[Floats] = []
        self.normed: list[Floats] = []
        self.products: list[tuple[Floats, Floats]] = []
        self.routings: list[Routing] = []
        self._routers: list[tuple[Any, RouterWeights]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def embed(self, *arguments: Any) -> Any:
        embedded = self._ops.embed(*arguments)
        self.residuals.append(self._copy(embedded))
        return embedded

    def put_rows(self, *arguments: Any) -> Any:
        embedded = self._ops.put_rows(*arguments)
        self.residuals[-1] = self._copy(embedded)
        return embedded

    def norm(self, *arguments: Any) -> Any:
        normed = self._ops.norm(*arguments)
        self.normed.append(self._copy(normed))
        return normed

    def add_norm(self, *arguments: Any) -> Any:
        total, normed = self._ops.add_norm(*arguments)
        self.residuals.append(self._copy(total))
        self.normed.append(self._copy(normed))
        return total, normed

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        result = self._ops.linear(x, weight, bias)
        self.products.append((self._copy(x), self._copy(result)))
        return result

    def mlp(self, x: Any, gate_up: Any, down: Any) -> Any:
        result = self._ops.mlp(x, gate_up, down)
        self.products.append((self._copy(x), self._copy(result)))
        return result

    def pack_moe(self, banks: Sequence[ExpertBank], *arguments: Any) -> Any:
        packed = self._ops.pack_moe(banks, *arguments)
        self._routers.append((packed, banks[0].router))
        return packed

    def moe(self, x: Any, layer: Any, batch: Any) -> Any:
        result = self._ops.moe(x, layer, batch)
        self.products.append((self._copy(x), self._copy(result)))
        (router,) = (each for packed, each in self._routers if packed is layer)
        self.routings.append(routing_of(self._ops, router, x))
        return result

    def _copy(self, x: Any) -> Floats:
        return to_host(x).copy()
