"""What of a service's settings decides how much memory it takes.

This module must not know where the settings come from.
"""

from __future__ import annotations

from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.memory.model_shape import ModelShape
from ernie_backend.stored_quantization import HADAMARD_BLOCK
from ernie_backend.weights.placement import QUANTIZATIONS


@dataclass(frozen=True)
class PlanSettings:
    """Settings by the names and with the defaults of ``EngineSettings``.

    Attributes:
        num_gpu_blocks_override: KV cache blocks that the user chose; None: as many as fit.
        tensor_parallel_size: devices that share the model.
        enable_expert_parallel: they share out whole experts, not slices of each.
        image_max_pixels: of the largest picture; None: the model's own limit.
    """

    dtype: str = "bfloat16"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    max_model_len: int = 2048
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 2048
    block_size: int = 64
    gpu_memory_utilization: float = 0.9
    num_gpu_blocks_override: int | None = None
    tensor_parallel_size: int = 1
    enable_expert_parallel: bool = False
    image_max_pixels: int | None = None

    @property
    def blocks_per_request(self) -> int:
        """KV cache blocks of one request of ``max_model_len`` tokens."""
        return -(-self.max_model_len // self.block_size)


def check_plan_settings(shape: ModelShape, settings: PlanSettings) -> None:
    """Check what a plan takes for granted.

    Raises:
        StartError: the quantization is unknown, or the model cannot be cut into so many parts.
    """
    if settings.quantization not in (None, *QUANTIZATIONS):
        raise StartError(
            f"quantization is {settings.quantization!r}; known: {', '.join(QUANTIZATIONS)}, or none"
        )
    ranks = settings.tensor_parallel_size
    if not can_split(shape, settings, ranks):
        possible = [str(size) for size in range(1, shape.num_heads + 1) if can_split(shape, settings, size)]
        raise StartError(
            f"tensor_parallel_size is {ranks}; it must divide the heads ({shape.num_heads} and "
            f"{shape.num_kv_heads}), the vocabulary and the widths of the MLPs; possible are "
            + ", ".join(possible)
        )


def can_split(shape: ModelShape, settings: PlanSettings, ranks: int) -> bool:
    """Whether what must be cut of a model can be divided among ``ranks``.

    w4a8 rotates the inputs of an expert's last Linear in blocks, which no two ranks may share. With expert
    parallelism only experts and the vocabulary must be cut.
    """
    if settings.enable_expert_parallel and shape.experts is not None:
        return all(
            size % ranks == 0 for size in (shape.vocab_size, *(bank.count for bank in shape.experts.banks))
        )
    sizes = [*_dense_sizes(shape), shape.vocab_size]
    if shape.experts is not None:
        is_rotated = settings.quantization == "w4a8" and ranks > 1
        sizes += [bank.width // HADAMARD_BLOCK if is_rotated else bank.width for bank in shape.experts.banks]
    return all(size % ranks == 0 for size in sizes)


def dense_ranks(shape: ModelShape, settings: PlanSettings) -> int:
    """Return among how many ranks attention, dense MLPs and shared experts are cut; 1: each has all of them."""
    ranks = settings.tensor_parallel_size
    is_whole = settings.enable_expert_parallel and any(size % ranks for size in _dense_sizes(shape))
    return 1 if is_whole else ranks


def _dense_sizes(shape: ModelShape) -> list[int]:
    shared = [] if shape.experts is None else [shape.experts.shared_width]
    return [shape.num_heads, shape.num_kv_heads, shape.intermediate_size, *shared]
