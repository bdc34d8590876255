"""The settings nearest to ones that do not fit, of those that do.

Near is first what changes few settings, then what doubles or halves least: from bfloat16 to wint8 is one
halving, from 4 devices to 8 one doubling, utilization 0.8 to 0.9 a sixth of one. This module must not know
devices' kinds or models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ernie_backend.memory.memory_plan import MemoryPlan, plan_memory
from ernie_backend.memory.plan_settings import PlanSettings, can_split

MAX_UTILIZATION = 0.95
"""The most that is proposed; the highest of FastDeploy's documented commands."""
MAX_DEVICES = 8
"""Devices of one machine."""
_WEIGHT_BITS = {None: 16, "wint8": 8, "wint4": 4, "w4a8": 4}
_CACHE_BITS = {"auto": 16, "int8": 8}
_LEAST_STEP = 256
"""The smallest max_num_batched_tokens that is proposed."""


@dataclass(frozen=True)
class Alternative:
    """Settings that fit.

    Attributes:
        plan: of these settings.
        changed: names of the settings that differ -> their values.
        distance: doublings and halvings.
    """

    plan: MemoryPlan
    changed: dict[str, object]
    distance: float

    def __str__(self) -> str:
        return " and ".join(f"{name} {value}" for name, value in self.changed.items())


def nearest_fits(plan: MemoryPlan, count: int = 3) -> list[Alternative]:
    """Return the nearest settings that fit, at most ``count``; each changes other settings if possible."""
    found = sorted(_alternatives(plan), key=lambda each: (len(each.changed), each.distance))
    chosen: list[Alternative] = []
    for each in found:
        if not any(set(other.changed) <= set(each.changed) for other in chosen):
            chosen.append(each)
    more = [each for each in found if each not in chosen]
    nearest = (chosen + more)[:count]
    return sorted(nearest, key=lambda each: (len(each.changed), each.distance))


def _alternatives(plan: MemoryPlan) -> Iterator[Alternative]:
    for settings in _smaller(plan):
        other = plan_memory(plan.shape, settings, plan.device)
        for fitted in (settings, *_longer_memory(other), *_shorter_requests(other)):
            candidate = plan_memory(plan.shape, fitted, plan.device)
            changed = _changed(plan.settings, fitted)
            if changed and candidate.fits:
                yield Alternative(candidate, changed, _distance(plan.settings, fitted))


def _smaller(plan: MemoryPlan) -> Iterator[PlanSettings]:
    """Yield the settings with every choice of smaller formats, smaller steps and more devices."""
    old = plan.settings
    for quantization, cache, step, devices in itertools.product(
        _smaller_weights(plan), _smaller_caches(plan), _smaller_steps(old), _more_devices(plan)
    ):
        yield replace(
            old,
            quantization=quantization,
            kv_cache_dtype=cache,
            max_num_batched_tokens=step,
            tensor_parallel_size=devices,
        )


def _smaller_weights(plan: MemoryPlan) -> list[str | None]:
    """Return the quantizations that take less; w4a8 needs a checkpoint of its own and is not proposed."""
    old = plan.settings.quantization
    if plan.shape.stored_quantization is not None:
        return [old]
    known = ("wint8", "wint4") if plan.shape.experts else ("wint8",)
    return [old, *(each for each in known if _WEIGHT_BITS[each] < _WEIGHT_BITS[old])]


def _smaller_caches(plan: MemoryPlan) -> list[str]:
    old = plan.settings.kv_cache_dtype
    return [old] if plan.shape.has_cache_scales or old == "int8" else [old, "int8"]


def _smaller_steps(old: PlanSettings) -> list[int]:
    steps = [old.max_num_batched_tokens]
    while steps[-1] // 2 >= _LEAST_STEP:
        steps.append(steps[-1] // 2)
    return steps


def _more_devices(plan: MemoryPlan) -> list[int]:
    old = plan.settings.tensor_parallel_size
    if plan.device.is_shared:
        return [old]
    more = (size for size in range(old + 1, MAX_DEVICES + 1) if can_split(plan.shape, plan.settings, size))
    return [old, *more]


def _longer_memory(plan: MemoryPlan) -> Iterator[PlanSettings]:
    """Yield the settings with the least utilization that is enough, in hundredths."""
    if plan.needed > MAX_UTILIZATION * plan.memory:
        return
    enough = min(math.ceil(100 * plan.needed / plan.memory) / 100, MAX_UTILIZATION)
    if enough > plan.settings.gpu_memory_utilization:
        yield replace(plan.settings, gpu_memory_utilization=enough)


def _shorter_requests(plan: MemoryPlan) -> Iterator[PlanSettings]:
    """Yield the settings with the longest requests of whole blocks that fit."""
    if 0 < plan.num_tokens < plan.settings.max_model_len and plan.settings.num_gpu_blocks_override is None:
        yield replace(plan.settings, max_model_len=plan.num_tokens)


def _changed(old: PlanSettings, new: PlanSettings) -> dict[str, object]:
    return {name: value for name, value in vars(new).items() if value != getattr(old, name)}


def _distance(old: PlanSettings, new: PlanSettings) -> float:
    ratios = (
        new.gpu_memory_utilization / old.gpu_memory_utilization,
        old.max_model_len / new.max_model_len,
        old.max_num_batched_tokens / new.max_num_batched_tokens,
        new.tensor_parallel_size / old.tensor_parallel_size,
        _WEIGHT_BITS[old.quantization] / _WEIGHT_BITS[new.quantization],
        _CACHE_BITS[old.kv_cache_dtype] / _CACHE_BITS[new.kv_cache_dtype],
    )
    return sum(math.log2(ratio) for ratio in ratios)
