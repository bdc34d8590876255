"""A layer of experts, bank by bank and expert by expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ExpertBank, MlpWeights
from ernie_kernels.formats import ActivationType
from ernie_kernels.routing import (
    RouterWeights,
    Routing,
    check_experts,
    check_router,
    choose_experts,
    rows_of_banks,
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceBank:
    """A router, and the experts of it that are here."""

    router: RouterWeights
    experts: tuple[MlpWeights, ...]
    local_experts: range

    @classmethod
    def pack(cls, bank: ExpertBank) -> ReferenceBank:
        """Keep the weights as they are; ValueError if their sizes do not fit each other."""
        local_experts, experts = check_router(bank.router, bank.local_experts), tuple(bank.experts)
        check_experts(local_experts, len(experts))
        return cls(bank.router, experts, local_experts)


@dataclass(frozen=True)
class ReferenceMoe:
    """The banks of a layer, its shared experts, and how the inputs of all of them are rounded."""

    banks: tuple[ReferenceBank, ...]
    shared: MlpWeights | None
    activation: ActivationType


def route(x: Floats, router: RouterWeights) -> Routing:
    """Return the experts that each row of ``x [T, H]`` goes to."""
    return choose_experts(x @ router.gate.T, router.correction_bias, router.experts_per_token)


def moe(
    x: Floats,
    layer: ReferenceMoe,
    vision_rows: NDArray[np.int32] | None,
    mlp: Callable[[Floats, MlpWeights], Floats],
) -> Floats:
    """Return the shared experts' result plus the weighted results of each row's experts: ``[T, H]``."""
    total = np.zeros_like(x) if layer.shared is None else mlp(x, layer.shared)
    for bank, rows in zip(layer.banks, rows_of_banks(len(layer.banks), len(x), vision_rows), strict=True):
        routing = route(x[rows], bank.router)
        for index, expert in zip(bank.local_experts, bank.experts, strict=True):
            chosen, places = np.nonzero(routing.experts == index)
            if chosen.size:
                weights = routing.weights[chosen, places][:, None]
                total[rows[chosen]] += weights * mlp(x[rows[chosen]], expert)
    return total
