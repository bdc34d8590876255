"""Runs rank 0's part of the model and has the other ranks run theirs. This module must not know policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_backend.parallel.group import Group
from ernie_backend.request.plan import SchedulePlan
from ernie_backend.runner.inputs import build_batch
from ernie_backend.runner.model_runner import ModelRunner


class LeadingRunner:
    """``engine.Runner`` for a group of ranks."""

    def __init__(self, runner: ModelRunner, group: Group) -> None:
        self._runner = runner
        self._group = group

    def run(self, plan: SchedulePlan) -> NDArray[np.float32]:
        """Compute a plan's tokens; see ``ModelRunner.run``."""
        batch = build_batch(plan)
        self._group.announce(batch)
        with self._group.explained():  # a sum fails when another rank has died
            return self._runner.compute(batch)
