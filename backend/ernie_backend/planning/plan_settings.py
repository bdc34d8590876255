"""What of a service's settings decides how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.planning.model_shape import ModelShape
from ernie_backend.weights.sharding import Shard, can_split, check_split, expert_block, shard_of


@dataclass(frozen=True)
class PlanSettings:
    """Settings by the names of ``EngineSettings``.

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

    def shard(self, config: ModelConfig) -> Shard:
        """Return the first rank's shard, which is planned."""
        return shard_of(config, 0, self.tensor_parallel_size, is_expert_parallel=self.enable_expert_parallel)


def check_plan_settings(shape: ModelShape, settings: PlanSettings) -> None:
    """Check what a plan takes for granted.

    Raises:
        StartError: the model, or its checkpoint, cannot be shared by that many ranks, or the KV cache that the
            user chose does not hold one request.
    """
    ranks, parts = settings.tensor_parallel_size, shape.num_parts
    if not _can_read(shape, ranks):
        raise StartError(
            f"the checkpoint was cut for {parts} ranks (rank0 to rank{parts - 1}) and tensor_parallel_size is "
            f"{ranks}; give {parts}, or 1, which joins the parts"
        )
    check_split(shape.config, settings.shard(shape.config), _block(shape, settings))
    blocks = settings.num_gpu_blocks_override
    if blocks is not None and blocks < settings.blocks_per_request:
        raise StartError(
            f"num_gpu_blocks_override {blocks} is less than the {settings.blocks_per_request} blocks of one "
            f"request of max_model_len {settings.max_model_len}; raise it, or lower max_model_len (at most "
            f"{blocks * settings.block_size} fits)"
        )


def can_share(shape: ModelShape, settings: PlanSettings, ranks: int) -> bool:
    """Whether ``ranks`` can share a model under these settings."""
    shard = replace(settings, tensor_parallel_size=ranks).shard(shape.config)
    return _can_read(shape, ranks) and can_split(shape.config, shard, _block(shape, settings))


def _block(shape: ModelShape, settings: PlanSettings) -> int:
    return expert_block(shape.config.quantization_config, settings.quantization)


def _can_read(shape: ModelShape, ranks: int) -> bool:
    """Whether ``ranks`` can read the checkpoint: one in parts is for as many as there are, or for one."""
    return shape.num_parts == 1 or ranks in (1, shape.num_parts)
