"""The plan of an engine's own memory, and its refusal before anything is loaded."""

from __future__ import annotations

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import Backend
from ernie_backend.devices.device import GIB
from ernie_backend.errors import StartError
from ernie_backend.planning.memory_plan import MemoryPlan, plan_memory
from ernie_backend.planning.model_shape import ModelShape, count_parts
from ernie_backend.planning.plan_settings import PlanSettings
from ernie_backend.planning.suggestions import nearest_fits
from ernie_backend.settings import EngineSettings


def engine_plan(
    settings: EngineSettings, config: ModelConfig, backend: Backend, available_bytes: int
) -> MemoryPlan:
    """Return the plan of an engine with these settings.

    Args:
        settings: the engine's.
        config: the model's.
        backend: what computes.
        available_bytes: memory of the hosts that is free.

    Raises:
        StartError: the settings do not suit this model, or a part of its checkpoint is missing.
    """
    shape = ModelShape(config, num_parts=1 if settings.is_dummy else count_parts(settings.model))
    return plan_memory(shape, plan_settings(settings), backend.planned_device(available_bytes, None))


def plan_settings(settings: EngineSettings, image_max_pixels: int | None = None) -> PlanSettings:
    """Return what of an engine's settings decides how much memory it takes.

    Args:
        settings: the engine's.
        image_max_pixels: of the largest picture, which the engine has no setting for yet.
    """
    return PlanSettings(
        dtype=settings.dtype,
        quantization=settings.quantization,
        kv_cache_dtype=settings.kv_cache_dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        block_size=settings.block_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        num_gpu_blocks_override=settings.num_gpu_blocks_override,
        tensor_parallel_size=settings.tensor_parallel_size,
        enable_expert_parallel=settings.enable_expert_parallel,
        image_max_pixels=image_max_pixels,
    )


def check_fits(plan: MemoryPlan) -> None:
    """Check that a plan fits.

    Raises:
        StartError: it does not; names need, have and the nearest settings that fit, in one line.
    """
    if plan.fits:
        return
    settings = plan.settings
    what = (
        f"{settings.num_gpu_blocks_override} blocks of"
        if settings.num_gpu_blocks_override
        else "one request in"
    )
    parts = (
        f"weights {_gib(sum(plan.weights.values()))}, activations {_gib(plan.activations)}, "
        f"runtime {_gib(plan.runtime)}, {what} the KV cache "
        f"{_gib(plan.least_blocks * plan.bytes_per_block)}"
    )
    nearest = "; or ".join(str(each) for each in nearest_fits(plan))
    raise StartError(
        f"memory needed: {_gib(plan.needed)} GiB ({parts}); had: {_gib(plan.budget)} GiB "
        f"(gpu_memory_utilization {settings.gpu_memory_utilization:g} of {_gib(plan.memory)}"
        f"{', assumed' if plan.device.is_assumed else ''}); "
        + (f"nearest settings that fit: {nearest}" if nearest else "no setting makes it fit")
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.3f}"
