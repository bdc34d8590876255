"""A plan as text and as JSON."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ernie_backend.planning.memory_plan import MemoryPlan
from ernie_backend.planning.suggestions import NO_CHANGE_HELPS, Changes
from ernie_backend.planning.units import format_bytes
from ernie_backend.settings.kinds import JsonValues, Switch
from ernie_cli.flags.plan import SETTINGS
from ernie_cli.flags.table import FLAGS
from ernie_cli.plan.request import PlanRequest

_WIDTH = 58
_COMMAND_WIDTH = 70
_SETTINGS = tuple(flag.removeprefix("--").replace("-", "_") for flag in SETTINGS)
"""Those that decide memory."""


@dataclass(frozen=True)
class Planned:
    """A request and what came out.

    Attributes:
        request: the request.
        plan: its plan.
        suggestions: changes of settings with which it fits, if it does not.
        composed: the plan for the composed Paddle ops; None where they are not concerned.
    """

    request: PlanRequest
    plan: MemoryPlan
    suggestions: Sequence[Changes] = ()
    composed: MemoryPlan | None = None


def lines(planned: Planned, width: int) -> list[str]:
    """Return the plan as lines; sentences are wrapped at a width."""
    wrapped: list[str] = []
    for line in _lines(planned):
        if line.startswith("  ") or not line:
            wrapped.append(line)
        else:
            wrapped += textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    return wrapped


def _lines(planned: Planned) -> list[str]:
    request, plan = planned.request, planned.plan
    settings, device = plan.settings, plan.device
    ranks, utilization = settings.parallel.tensor_parallel_size, settings.cache.gpu_memory_utilization
    kind = f"share of the {device.name}'s memory" if device.is_shared and ranks > 1 else f"{device.name} memory"
    weights = [_row(f"  {group}", size) for group, size in plan.weights.items()]
    return [
        f"{request.name}, {settings.loading.quantization or settings.loading.dtype}, {ranks} x {device.name}",
        *(f"Notice: {notice}" for notice in request.notices),
        "",
        "Each of them" if ranks > 1 else "Memory",
        _row(kind + (" (assumed)" if device.is_assumed else ""), plan.memory),
        _row(f"x gpu_memory_utilization {utilization:g} = what may be taken", plan.budget),
        _row("weights", sum(plan.weights.values())),
        *weights,
        _row(f"activations of {settings.scheduler.max_num_batched_tokens:,} tokens", plan.activations),
        *([_row("images and videos", plan.media)] if plan.media else []),
        _row("runtime" + ("" if device.is_shared else " (assumed)"), plan.runtime),
        _row(f"KV cache of {_least(plan)}", plan.least_cache),
        _row("needed", plan.needed),
        f"  ({plan.bytes_per_token:,.0f} bytes of KV cache for a token)",
        "",
        *(_room(plan) if plan.fits else _misfit(plan, planned.suggestions)),
        *(_composed(planned.composed) if planned.composed else []),
        *(f"Assumed: {each}" for each in request.assumed),
        *(_serve_command(request.serve_flags) if request.serve_flags else []),
    ]


def report(planned: Planned) -> dict[str, Any]:
    """Return the plan as JSON; sizes are bytes of one device."""
    request, plan, composed = planned.request, planned.plan, planned.composed
    return {
        "model": request.name,
        "device": plan.device.name,
        "devices": plan.settings.parallel.tensor_parallel_size,
        "settings": {name: _json(plan.settings.flat[name]) for name in _SETTINGS},
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
        "media": plan.media,
        "runtime": plan.runtime,
        "kv_cache_per_token": plan.bytes_per_token,
        "kv_cache_least": plan.least_cache,
        "needed": plan.needed,
        "fits": plan.fits,
        "kv_blocks": plan.num_blocks,
        "tokens": plan.num_tokens,
        "sequences": plan.num_sequences,
        "more_tokens": plan.more_tokens,
        "more_sequences": plan.more_sequences,
        "alternatives": planned.suggestions,
        "composed_ops": {"needed": composed.needed, "fits": composed.fits} if composed else None,
    }


def _json(value: object) -> object:
    return value.given if isinstance(value, JsonValues) else value


def _row(text: str, size: int) -> str:
    return f"{'  ' + text:<{_WIDTH}}{format_bytes(size):>12}"


def _least(plan: MemoryPlan) -> str:
    if plan.settings.cache.num_gpu_blocks_override:
        return f"{plan.least_blocks} blocks"
    return f"one sequence of {plan.settings.loading.max_model_len:,} tokens"


def _room(plan: MemoryPlan) -> list[str]:
    settings = plan.settings
    sequences = settings.scheduler.max_num_seqs
    limit = sequences * settings.blocks_per_request
    is_limited = settings.cache.num_gpu_blocks_override is None and plan.num_blocks > limit
    unused = f"; the engine allocates for {sequences} (max_num_seqs) at most" if is_limited else ""
    return [
        f"It fits, and next to one sequence of {settings.loading.max_model_len:,} tokens there is room for "
        f"{plan.more_tokens:,} tokens more, or {plan.more_sequences:,} more such sequences{unused}"
    ]


def _composed(plan: MemoryPlan) -> list[str]:
    """Return what the ops composed of Paddle's need, which hold more."""
    return [
        "With ops composed of Paddle's, the slow fallback (docs/plan.md), "
        f"{format_bytes(plan.needed)} are needed: "
        f"{'it fits' if plan.fits else 'it does not fit'}"
    ]


def _misfit(plan: MemoryPlan, suggestions: Sequence[Changes]) -> list[str]:
    lacking = f"It does not fit: {format_bytes(plan.needed - plan.budget)} are lacking"
    if not suggestions:
        return [f"{lacking}, and {NO_CHANGE_HELPS}"]
    return [f"{lacking}. Settings that fit:", *(f"  {_flags(each)}" for each in suggestions)]


def _serve_command(flags: Mapping[str, str]) -> list[str]:
    """Return the command in lines that a shell joins."""
    words = [_written(name, value) for name, value in flags.items()]
    command = ["  ernie-triton serve"]
    for word in words:
        if len(command[-1]) + len(word) < _COMMAND_WIDTH:
            command[-1] += f" {word}"
        else:
            command[-1] += " \\"
            command.append(f"    {word}")
    return ["", "The service of this row:", *command]


def _written(name: str, value: str) -> str:
    """Return a flag as one writes it for a shell."""
    flag = FLAGS[name]
    if isinstance(flag.kind, Switch):
        return name if value == "true" else str(flag.opposite)
    return f"{name} {shlex.quote(value)}"


def _flags(changes: Changes) -> str:
    """Return the flags to add to the command."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changes.items())
