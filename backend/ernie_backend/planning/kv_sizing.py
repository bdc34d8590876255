"""How many blocks the KV cache gets: a pure function of sizes."""

from __future__ import annotations

from ernie_backend.errors import StartError
from ernie_backend.planning.units import format_bytes
from ernie_backend.settings.engine_settings import EngineSettings


def kv_blocks(settings: EngineSettings, bytes_per_block: int, budget_bytes: int) -> int:
    """Return how many blocks to allocate: as many as the user chose, else what fits and all requests can use.

    Args:
        settings: the engine's.
        bytes_per_block: of all layers together.
        budget_bytes: memory that the cache may take.

    Raises:
        StartError: the budget does not allow the user's choice, or one request of ``max_model_len`` tokens; a
            process that takes more memory than there is would be killed later.
    """
    have, least = max(0, budget_bytes), settings.blocks_per_request
    affordable, override = have // bytes_per_block, settings.cache.num_gpu_blocks_override
    if override:
        if override > affordable:
            raise StartError(
                f"num_gpu_blocks_override {override} needs {format_bytes(override * bytes_per_block)}, "
                f"{format_bytes(have)} are left after the weights; lower it (at most {affordable} fits) or "
                "raise gpu_memory_utilization"
            )
        return override
    if affordable < least:
        raise StartError(
            f"the KV cache of one request of max_model_len {settings.loading.max_model_len} needs "
            f"{format_bytes(least * bytes_per_block)}, {format_bytes(have)} are left after the weights; lower "
            f"max_model_len (at most {affordable * settings.cache.block_size} fits) or raise "
            "gpu_memory_utilization"
        )
    return min(affordable, settings.scheduler.max_num_seqs * least)


def check_available(num_blocks: int, bytes_per_block: int, available_bytes: int) -> None:
    """Check that memory which was planned with is still there, since it is reserved now and touched later.

    Raises:
        StartError: it is not.
    """
    need = num_blocks * bytes_per_block
    if need > available_bytes:
        raise StartError(
            f"the KV cache of {num_blocks} blocks needs {format_bytes(need)}, and only "
            f"{format_bytes(available_bytes)} are available now, less "
            "than when the start began: another process has taken memory; end it, or start again to plan with "
            "what it leaves"
        )
