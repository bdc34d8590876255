"""Runs the model over a plan.

Owns the KV cache arrays. This module must not know why a plan is as it is, nor what becomes of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_backend.models.base import Model
from ernie_backend.runner.inputs import build_batch
from ernie_backend.scheduler.plan import SchedulePlan
from ernie_kernels.api import LayerCache, Ops


class ModelRunner:
    """A model, its device and its KV cache."""

    def __init__(self, model: Model, ops: Ops, caches: Sequence[LayerCache]) -> None:
        self._model = model
        self._ops = ops
        self._caches = caches

    def run(self, plan: SchedulePlan) -> NDArray[np.float32]:
        """Compute a plan's tokens.

        Returns:
            Logits ``[R, V]``: ``num_logit_rows`` of each chunk, in the plan's order.
        """
        return self._model.forward(self._ops.upload(build_batch(plan)), self._caches)
