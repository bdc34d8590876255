"""The plan of an engine's own memory, and its refusal before anything is loaded."""

from __future__ import annotations

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import Backend
from ernie_backend.errors import StartError
from ernie_backend.planning.memory_plan import MemoryPlan, plan_memory
from ernie_backend.planning.model_shape import ModelShape, count_parts
from ernie_backend.planning.suggestions import NO_CHANGE_HELPS, suggest_changes
from ernie_backend.planning.units import format_bytes
from ernie_backend.settings.engine_settings import EngineSettings


def engine_plan(
    settings: EngineSettings,
    config: ModelConfig,
    backend: Backend,
    available_bytes: int,
    card_bytes: int | None = None,
) -> MemoryPlan:
    """Return the plan of an engine with these settings.

    Args:
        settings: the engine's.
        config: the model's.
        backend: what computes.
        available_bytes: memory of the hosts that is free.
        card_bytes: memory of a card that is free, before anything is loaded; None: unknown.

    Raises:
        StartError: the settings do not suit this model, or a part of its checkpoint is missing.
    """
    shape = ModelShape(config, num_parts=1 if settings.loading.is_dummy else count_parts(settings.model))
    return plan_memory(shape, settings, backend.planned_device(available_bytes, card_bytes))


def check_fits(plan: MemoryPlan) -> None:
    """Check that a plan fits.

    Raises:
        StartError: it does not; with need, have and the changes of settings that make it fit.
    """
    if plan.fits:
        return
    utilization = plan.settings.cache.gpu_memory_utilization
    needed = f"{format_bytes(plan.needed)} ({_parts(plan)})"
    had = (
        f"{format_bytes(plan.budget)} (gpu_memory_utilization {utilization:g} of "
        f"{format_bytes(plan.memory)}{', assumed' if plan.device.is_assumed else ''})"
    )
    changes = [
        " and ".join(f"{name} {value}" for name, value in each.items()) for each in suggest_changes(plan)
    ]
    way_out = f"settings that fit: {'; or '.join(changes)}" if changes else NO_CHANGE_HELPS
    ways = ["it fits with any of these:", *(f"  {each}" for each in changes)] if changes else [NO_CHANGE_HELPS]
    raise StartError(
        f"memory needed: {needed}; had: {had}; {way_out}",
        layout="\n  ".join(["the model does not fit", f"memory needed: {needed}", f"had: {had}", *ways]),
    )


def _parts(plan: MemoryPlan) -> str:
    blocks = plan.settings.cache.num_gpu_blocks_override
    parts = {
        "weights": sum(plan.weights.values()),
        "activations": plan.activations,
        **({"images and videos": plan.media} if plan.media else {}),
        "runtime": plan.runtime,
        f"{blocks} blocks of the KV cache" if blocks else "one request in the KV cache": plan.least_cache,
    }
    return ", ".join(f"{part} {format_bytes(size)}" for part, size in parts.items())
