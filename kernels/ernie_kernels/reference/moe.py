"""A layer of experts, expert by expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import MlpWeights
from ernie_kernels.formats import ActivationType
from ernie_kernels.routing import RouterWeights, Routing, choose_experts

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceMoe:
    """The weights of a layer, how the inputs of its experts are rounded, and which experts are here."""

    router: RouterWeights
    experts: tuple[MlpWeights, ...]
    shared: MlpWeights | None
    activation: ActivationType
    local_experts: range


def route(x: Floats, layer: ReferenceMoe) -> Routing:
    """Return the experts that each row of ``x [T, H]`` goes to."""
    router = layer.router
    return choose_experts(x @ router.gate.T, router.correction_bias, router.experts_per_token)


def moe(x: Floats, layer: ReferenceMoe, mlp: Callable[[Floats, MlpWeights], Floats]) -> Floats:
    """Return the shared experts' result plus the weighted results of each row's experts: ``[T, H]``."""
    routing = route(x, layer)
    total = np.zeros_like(x) if layer.shared is None else mlp(x, layer.shared)
    for index, expert in zip(layer.local_experts, layer.experts, strict=True):
        rows, places = np.nonzero(routing.experts == index)
        if rows.size:
            total[rows] += routing.weights[rows, places][:, None] * mlp(x[rows], expert)
    return total
