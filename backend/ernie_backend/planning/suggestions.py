"""What to change so that a model fits: the same weights, quantized weights, more devices, or else the last two.

Each way is tried with the settings as they are, then with more of the memory, then with shorter requests (or
fewer blocks, where the user chose their number); the first that fits is suggested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ernie_backend.planning.memory_plan import MemoryPlan, can_share, plan_memory

MAX_UTILIZATION = 0.95
"""The most that is suggested; the highest of FastDeploy's documented commands."""
MAX_DEVICES = 8
"""Devices of one machine."""

NO_CHANGE_HELPS = (
    "no shorter context, quantization or number of devices makes it fit; lower max_num_batched_tokens and "
    "max_num_seqs need less memory for activations"
)

Changes = Mapping[str, Any]
"""Names of settings -> their new values."""


def suggest_changes(plan: MemoryPlan) -> list[Changes]:
    """Return changes that make a plan fit which does not: one for each way, or one for both together."""
    weights: Sequence[Changes] = [{"quantization": each} for each in _smaller_weights(plan)]
    devices: Sequence[Changes] = [{"tensor_parallel_size": each} for each in _more_devices(plan)]
    ways: Sequence[Sequence[Changes]] = ([{}], weights, devices)
    found = [next(_fitting(plan, way), None) for way in ways]
    if not any(found):
        both = [{**smaller, **more} for smaller in weights for more in devices]
        found = [next(_fitting(plan, both), None)]
    return [each for each in found if each]


def _fitting(plan: MemoryPlan, way: Sequence[Changes]) -> Iterator[Changes]:
    plans = [(changes, _changed(plan, changes)) for changes in way]
    # Shorter requests come last: they take something from the user that another value of the way may not.
    for repair in (_more_memory, _shorter_requests):
        for changes, changed in plans:
            together = {**changes, **repair(changed)}
            if _changed(plan, together).fits:
                yield together


def _changed(plan: MemoryPlan, changes: Changes) -> MemoryPlan:
    return plan_memory(plan.shape, plan.settings.replaced(**changes), plan.device)


def _more_memory(plan: MemoryPlan) -> Changes:
    """Return the least utilization that is enough, in hundredths; none if the plan fits without."""
    if plan.fits or plan.needed > MAX_UTILIZATION * plan.memory:
        return {}
    return {"gpu_memory_utilization": min(math.ceil(100 * plan.needed / plan.memory) / 100, MAX_UTILIZATION)}


def _shorter_requests(plan: MemoryPlan) -> Changes:
    """Return the longest requests of whole blocks that fit, or the blocks that fit; none if nothing does."""
    settings, blocks = plan.settings, plan.affordable_blocks
    if settings.cache.num_gpu_blocks_override is None:
        return {"max_model_len": blocks * settings.cache.block_size} if blocks else {}
    return {"num_gpu_blocks_override": blocks} if blocks >= settings.blocks_per_request else {}


def _smaller_weights(plan: MemoryPlan) -> Sequence[str]:
    """Return the quantizations that take less; w4a8 needs a checkpoint of its own and is not suggested."""
    if plan.shape.config.quantization_config is not None:
        return ()
    known = ("wint8", "wint4") if plan.shape.config.moe else ("wint8",)
    return {None: known, "wint8": known[1:]}.get(plan.settings.loading.quantization, ())


def _more_devices(plan: MemoryPlan) -> Sequence[int]:
    if plan.device.is_shared:  # ranks on a CPU have one memory together
        return ()
    more = range(plan.settings.parallel.tensor_parallel_size + 1, MAX_DEVICES + 1)
    return [size for size in more if can_share(plan.shape, plan.settings, size)]
