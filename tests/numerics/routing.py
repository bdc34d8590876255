"""Where ``moe`` sends each row, seen through the op alone: experts that are alike but for where they write."""

from __future__ import annotations

from typing import Any

import numpy as np

from ernie_kernels.api import ExpertBank, MlpWeights
from ernie_kernels.formats import ActivationType, Float32Weight
from ernie_kernels.routing import RouterWeights, Routing
from numerics.backends import to_host
from numerics.ops_cases import Floats, plain_batch, random_floats


def routing_of(ops: Any, router: RouterWeights, x: Any) -> Routing:
    """Return the experts of each row of ``x [T, H]`` on the ops' device, the one of the largest weight first.

    Each expert makes the same number of a row, and writes it to a place of its own. So a result is that number
    times the weights, which sum to 1. A row must not be 0, nor so large that its square overflows.
    """
    experts, hidden = router.gate.shape
    direction = random_floats(0, 1, hidden)
    gate_up = Float32Weight(np.concatenate([direction, direction]))  # silu(a) * a: positive for any a
    batch, results = ops.upload(plain_batch(len(to_host(x)))), []
    for start in range(0, experts, hidden):
        local = range(start, min(start + hidden, experts))
        places = np.eye(hidden, len(local), dtype=np.float32)
        writers = (MlpWeights(gate_up, Float32Weight(places[:, [each]])) for each in range(len(local)))
        layer = ops.pack_moe([ExpertBank(router, writers, local)], None, ActivationType.FLOAT32)
        results.append(to_host(ops.moe(x, layer, batch))[:, : len(local)])
    together = np.concatenate(results, axis=1)
    shares: Floats = together / together.sum(axis=1, keepdims=True)
    chosen = np.argsort(-shares, axis=1, kind="stable")[:, : router.experts_per_token]
    return Routing(chosen.astype(np.int32), np.take_along_axis(shares, chosen, axis=1))


def by_index(routing: Routing) -> Routing:
    """The same routing, in the order of the experts."""
    order = np.argsort(routing.experts, axis=1)
    experts, weights = routing.experts, routing.weights
    return Routing(np.take_along_axis(experts, order, axis=1), np.take_along_axis(weights, order, axis=1))
