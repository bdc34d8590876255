"""A plan for people, and as JSON.

This module must not know how memory is planned.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ernie_backend.planning.memory_plan import MemoryPlan
from ernie_backend.planning.suggestions import Alternative
from ernie_cli.plan.flags import MEDIA
from ernie_cli.plan.request import PlanRequest

_WIDTH = 58
_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Answer:
    """What there is to tell.

    Attributes:
        request: what was asked.
        plan: the plan.
        alternatives: settings that fit, if the plan does not.
        composed: the plan for the composed Paddle ops; None where they are not concerned.
    """

    request: PlanRequest
    plan: MemoryPlan
    alternatives: Sequence[Alternative]
    composed: MemoryPlan | None = None


def lines(answer: Answer, width: int | None = None) -> list[str]:
    """Return the plan as lines; sentences are wrapped at a width, if there is one."""
    wrapped: list[str] = []
    for line in _lines(answer):
        if width is None or line.startswith("  ") or not line:
            wrapped.append(line)
        else:
            wrapped += textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    return wrapped


def _lines(answer: Answer) -> list[str]:
    request, plan = answer.request, answer.plan
    settings, device = plan.settings, plan.device
    ranks = settings.tensor_parallel_size
    kind = f"share of the {device.name}'s memory" if device.is_shared and ranks > 1 else f"{device.name} memory"
    weights = [_row(f"  {group}", size) for group, size in plan.weights.items()]
    return [
        f"{request.name}, {settings.quantization or settings.dtype}, {ranks} x {device.name}",
        *(f"Notice: {notice}" for notice in request.notices),
        "",
        "Each of them" if ranks > 1 else "Memory",
        _row(kind + (" (assumed)" if device.is_assumed else ""), plan.memory),
        _row(f"x gpu_memory_utilization {settings.gpu_memory_utilization:g} = what may be taken", plan.budget),
        _row("weights", sum(plan.weights.values())),
        *weights,
        _row(f"activations of {settings.max_num_batched_tokens:,} tokens", plan.activations),
        _row("runtime" + ("" if device.is_shared else " (assumed)"), plan.runtime),
        _row(f"KV cache of {_least(plan)}", plan.least_blocks * plan.bytes_per_block),
        _row("needed", plan.needed),
        f"  ({plan.bytes_per_token:,.0f} bytes of KV cache for a token)",
        "",
        *(_room(plan) if plan.fits else _misfit(plan, answer.alternatives)),
        *(_composed(answer.composed) if answer.composed else []),
        *(f"Assumed: {each}" for each in request.assumed),
    ]


def report(answer: Answer) -> dict[str, Any]:
    """Return the plan as JSON; sizes are bytes of one device."""
    request, plan, composed = answer.request, answer.plan, answer.composed
    return {
        "model": request.name,
        "device": plan.device.name,
        "devices": plan.settings.tensor_parallel_size,
        "settings": vars(plan.settings),
        "notices": list(request.notices),
        "assumed": [
            *request.assumed,
            *(["device memory"] if plan.device.is_assumed else []),
            *(["runtime"] if not plan.device.is_shared else []),
        ],
        "memory": plan.memory,
        "budget": plan.budget,
        "weights": {**plan.weights, "total": sum(plan.weights.values())},
        "activations": plan.activations,
        "runtime": plan.runtime,
        "kv_cache_per_token": plan.bytes_per_token,
        "kv_cache_least": plan.least_blocks * plan.bytes_per_block,
        "needed": plan.needed,
        "fits": plan.fits,
        "kv_blocks": plan.num_blocks,
        "tokens": plan.num_tokens,
        "sequences": plan.num_sequences,
        "more_tokens": plan.more_tokens,
        "more_sequences": plan.more_sequences,
        "alternatives": [each.changed for each in answer.alternatives],
        "composed_ops": {"needed": composed.needed, "fits": composed.fits} if composed else None,
    }


def _row(text: str, size: int) -> str:
    return f"{'  ' + text:<{_WIDTH}}{_amount(size):>12}"


def _amount(size: int) -> str:
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB else f"{size / _MIB:,.1f} MiB"


def _least(plan: MemoryPlan) -> str:
    if plan.settings.num_gpu_blocks_override:
        return f"{plan.least_blocks} blocks"
    return f"one sequence of {plan.settings.max_model_len:,} tokens"


def _room(plan: MemoryPlan) -> list[str]:
    settings = plan.settings
    limit = settings.max_num_seqs * settings.blocks_per_request
    is_limited = settings.num_gpu_blocks_override is None and plan.num_blocks > limit
    unused = f"; the engine allocates for {settings.max_num_seqs} (max_num_seqs) at most" if is_limited else ""
    return [
        f"It fits, and beside one sequence of {settings.max_model_len:,} tokens there is room for "
        f"{plan.more_tokens:,} tokens more, or {plan.more_sequences:,} more such sequences{unused}"
    ]


def _composed(plan: MemoryPlan) -> list[str]:
    """Return what this project's own ops for the device need: they have no kernels for the formats yet."""
    return [
        f"With this project's own Paddle ops (docs/plan.md) {_amount(plan.needed)} are needed: "
        f"{'it fits' if plan.fits else 'it does not fit'}"
    ]


def _misfit(plan: MemoryPlan, alternatives: Sequence[Alternative]) -> list[str]:
    lacking = _amount(plan.needed - plan.budget)
    if not alternatives:
        return [f"It does not fit: {lacking} are lacking, and no setting helps"]
    return [
        f"It does not fit: {lacking} are lacking. The nearest settings that fit:",
        *(f"  {_flags(each)}" for each in alternatives),
    ]


def _flags(alternative: Alternative) -> str:
    """Return what is to be changed in the command, ready to paste."""
    media = {name: value for name, value in alternative.changed.items() if name == "image_max_pixels"}
    flags = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in alternative.changed.items()
        if name not in media
    ]
    return " ".join([*flags, *([f"{MEDIA} '{json.dumps(media)}'"] if media else [])])
