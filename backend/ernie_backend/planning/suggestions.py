"""The settings nearest to ones that do not fit, of those that do.

Near is first what changes few settings, then what doubles or halves least: from bfloat16 to wint8 is one
halving, from 4 devices to 8 one doubling, utilization 0.8 to 0.9 a sixth of one. What changes all that a nearer
proposal changes, and none of it notably less, is not proposed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ernie_backend.planning.memory_plan import MemoryPlan, plan_memory
from ernie_backend.planning.plan_settings import PlanSettings, can_share

MAX_UTILIZATION = 0.95
"""The most that is proposed; the highest of FastDeploy's documented commands."""
MAX_DEVICES = 8
"""Devices of one machine."""
_WEIGHT_BITS = {None: 16, "wint8": 8, "wint4": 4, "w4a8": 4}
_CACHE_BITS = {"auto": 16, "int8": 8}
_NOTABLE = 0.01
"""Doublings or halvings that tell two values of a setting apart: less than a hundredth of the memory."""
_LEAST_STEP = 256
"""The smallest max_num_batched_tokens that is proposed."""
_LEAST_PIXELS = 512 * 512
"""The smallest image_max_pixels that is proposed."""


@dataclass(frozen=True)
class Alternative:
    """Settings that fit.

    Attributes:
        plan: of these settings.
        changed: names of the settings that differ -> their values.
        distances: the same names -> doublings and halvings.
    """

    plan: MemoryPlan
    changed: Mapping[str, object]
    distances: Mapping[str, float]

    @property
    def nearness(self) -> tuple[int, float]:
        """What orders alternatives: the nearest has the least."""
        return len(self.changed), sum(self.distances.values())

    def is_beside(self, other: Alternative) -> bool:
        """Whether it leaves a setting alone that another one changes, or changes it notably less."""
        return any(self.distances.get(name, -1.0) + _NOTABLE < size for name, size in other.distances.items())

    def __str__(self) -> str:
        return " and ".join(f"{name} {value}" for name, value in self.changed.items())


def nearest_fits(plan: MemoryPlan, count: int = 3) -> list[Alternative]:
    """Return the nearest settings that fit, at most ``count``; each changes other settings if possible."""
    smaller = _smaller(plan)
    if not _fitted(plan, {name: values[-1] for name, values in smaller.items()}):
        return []
    found: list[Alternative] = []
    for number in range(len(smaller) + 1):
        for names in itertools.combinations(smaller, number):
            for values in itertools.product(*(smaller[name] for name in names)):
                found += _fitted(plan, dict(zip(names, values, strict=True)))
        nearest = _nearest([each for each in found if len(each.changed) <= number], count)
        if len(nearest) == count:
            return nearest
    return _nearest(found, count)


def _nearest(found: Sequence[Alternative], count: int) -> list[Alternative]:
    kept: list[Alternative] = []
    for each in sorted(found, key=lambda each: each.nearness):
        if all(each.is_beside(other) for other in kept):
            kept.append(each)
    first: list[Alternative] = []
    for each in kept:
        if not any(set(other.changed) <= set(each.changed) for other in first):
            first.append(each)
    more = [each for each in kept if each not in first]
    return sorted((first + more)[:count], key=lambda each: each.nearness)


def _fitted(plan: MemoryPlan, changes: Mapping[str, Any]) -> list[Alternative]:
    """Return what fits with some changes; with them alone, or with a little more memory or shorter requests."""
    other = plan_memory(plan.shape, replace(plan.settings, **changes), plan.device)
    candidates = (other.settings, *_more_memory(other), *_less_cache(other))
    plans = [plan_memory(plan.shape, settings, plan.device) for settings in candidates]
    return [_alternative(plan, each) for each in plans if each.fits]


def _smaller(plan: MemoryPlan) -> dict[str, Sequence[object]]:
    """Return what each setting that decides memory can be lowered to, the nearest first; not its own value."""
    old, vision = plan.settings, plan.shape.vision
    pixels = (old.image_max_pixels or vision.max_pixels) if vision else 0
    choices: dict[str, Sequence[object]] = {
        "tensor_parallel_size": _more_devices(plan),
        "quantization": _smaller_weights(plan),
        "kv_cache_dtype": _smaller_caches(plan),
        "max_num_batched_tokens": _halves(old.max_num_batched_tokens, _LEAST_STEP),
        "max_num_seqs": _halves(old.max_num_seqs, 1),
        "image_max_pixels": _halves(pixels, _LEAST_PIXELS),
    }
    return {name: values for name, values in choices.items() if values}


def _smaller_weights(plan: MemoryPlan) -> list[str]:
    """Return the quantizations that take less; w4a8 needs a checkpoint of its own and is not proposed."""
    if plan.shape.config.quantization_config is not None:
        return []
    known = ("wint8", "wint4") if plan.shape.config.moe else ("wint8",)
    return [each for each in known if _WEIGHT_BITS[each] < _WEIGHT_BITS[plan.settings.quantization]]


def _smaller_caches(plan: MemoryPlan) -> list[str]:
    return [] if plan.shape.has_cache_scales or plan.settings.kv_cache_dtype == "int8" else ["int8"]


def _halves(old: int, least: int) -> list[int]:
    halves = []
    while (old := old // 2) >= least:
        halves.append(old)
    return halves


def _more_devices(plan: MemoryPlan) -> list[int]:
    if plan.device.is_shared:
        return []
    more = range(plan.settings.tensor_parallel_size + 1, MAX_DEVICES + 1)
    return [size for size in more if can_share(plan.shape, plan.settings, size)]


def _more_memory(plan: MemoryPlan) -> Iterator[PlanSettings]:
    """Yield the settings with the least utilization that is enough, in hundredths."""
    if plan.needed > MAX_UTILIZATION * plan.memory:
        return
    enough = min(math.ceil(100 * plan.needed / plan.memory) / 100, MAX_UTILIZATION)
    if enough > plan.settings.gpu_memory_utilization:
        yield replace(plan.settings, gpu_memory_utilization=enough)


def _less_cache(plan: MemoryPlan) -> Iterator[PlanSettings]:
    """Yield the settings with the longest requests of whole blocks that fit, or with fewer chosen blocks."""
    settings, blocks = plan.settings, plan.affordable_blocks
    if settings.num_gpu_blocks_override is None:
        if 0 < blocks < settings.blocks_per_request:
            yield replace(settings, max_model_len=blocks * settings.block_size)
    elif settings.blocks_per_request <= blocks < settings.num_gpu_blocks_override:
        yield replace(settings, num_gpu_blocks_override=blocks)


def _alternative(old: MemoryPlan, new: MemoryPlan) -> Alternative:
    before, after = vars(old.settings), vars(new.settings)
    changed = {name: value for name, value in after.items() if value != before[name]}
    distances = {name: abs(math.log2(_number(new, name) / _number(old, name))) for name in changed}
    return Alternative(new, changed, distances)


def _number(plan: MemoryPlan, name: str) -> float:
    """Return what a setting is worth, for ratios."""
    value = getattr(plan.settings, name)
    if name == "quantization":
        return _WEIGHT_BITS[value]
    if name == "kv_cache_dtype":
        return _CACHE_BITS[value]
    if value is None and plan.shape.vision is not None:
        return plan.shape.vision.max_pixels
    return float(value)
