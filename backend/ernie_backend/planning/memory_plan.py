"""The memory of one rank: weights, activations, runtime, KV cache. A pure function of sizes.

fits  <=>  weights + activations + media + runtime + KV cache of one request of max_model_len
           <= device memory x gpu_memory_utilization
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ernie_backend.devices.device import Device
from ernie_backend.errors import StartError
from ernie_backend.planning.model_shape import ModelShape
from ernie_backend.planning.rank_sizes import (
    activation_bytes,
    attention_bytes,
    cast_bytes,
    media_bytes,
    weight_bytes,
)
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_backend.weights.sharding import can_split, check_split, expert_block, kv_heads_of
from ernie_kernels.api import CacheScales, CacheSpec


@dataclass(frozen=True)
class MemoryPlan:
    """What one rank needs and has; all sizes in bytes.

    Attributes:
        shape: the model.
        settings: the settings.
        device: where it runs.
        weights: by group of weights.
        activations: the largest step, what attention takes beside it, and a matrix that is turned into float32.
        media: encoded images and videos; on a CPU prepared ones too.
        bytes_per_block: of one block of the KV cache, all layers together.
    """

    shape: ModelShape
    settings: EngineSettings
    device: Device
    weights: Mapping[str, int]
    activations: int
    media: int
    bytes_per_block: int

    @property
    def memory(self) -> int:
        """Memory of one rank: of a device, or its share of the memory that all ranks share."""
        ranks = self.settings.parallel.tensor_parallel_size
        return self.device.memory_bytes // (ranks if self.device.is_shared else 1)

    @property
    def budget(self) -> int:
        """What the rank may take."""
        return int(self.memory * self.settings.cache.gpu_memory_utilization)

    @property
    def runtime(self) -> int:
        """Taken in addition to weights, activations, media and KV cache."""
        is_group = self.settings.parallel.tensor_parallel_size > 1
        return self.device.runtime_bytes + (self.device.group_bytes if is_group else 0)

    @property
    def fixed(self) -> int:
        """Taken in addition to the KV cache."""
        return sum(self.weights.values()) + self.activations + self.media + self.runtime

    @property
    def least_blocks(self) -> int:
        """Fewest KV cache blocks: of one request, or as many as the user chose."""
        return self.settings.cache.num_gpu_blocks_override or self.settings.blocks_per_request

    @property
    def least_cache(self) -> int:
        """Bytes of these blocks."""
        return self.least_blocks * self.bytes_per_block

    @property
    def needed(self) -> int:
        """The least memory with which it runs."""
        return self.fixed + self.least_cache

    @property
    def fits(self) -> bool:
        """Whether the budget covers what is needed."""
        return self.needed <= self.budget

    @property
    def affordable_blocks(self) -> int:
        """KV cache blocks that fit."""
        return max(0, self.budget - self.fixed) // self.bytes_per_block

    @property
    def num_blocks(self) -> int:
        """KV cache blocks: as many as the user chose, or as fit."""
        affordable = self.affordable_blocks
        return min(affordable, self.settings.cache.num_gpu_blocks_override or affordable)

    @property
    def num_tokens(self) -> int:
        """Tokens in these blocks."""
        return self.num_blocks * self.settings.cache.block_size

    @property
    def num_sequences(self) -> int:
        """Requests of ``max_model_len`` tokens in these blocks."""
        return self.num_blocks // self.settings.blocks_per_request

    @property
    def more_tokens(self) -> int:
        """Tokens in the blocks that one request leaves."""
        blocks = max(0, self.num_blocks - self.settings.blocks_per_request)
        return blocks * self.settings.cache.block_size

    @property
    def more_sequences(self) -> int:
        """Requests of ``max_model_len`` tokens in addition to the one that must fit."""
        return max(0, self.num_sequences - 1)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of one token in the KV cache."""
        return self.bytes_per_block / self.settings.cache.block_size


def plan_memory(shape: ModelShape, settings: EngineSettings, device: Device) -> MemoryPlan:
    """Return the plan of one rank; whether it fits, it says itself.

    A checkpoint that is quantized already keeps its format, whatever the settings say.

    Raises:
        StartError: the settings do not suit this model.
    """
    config = shape.config
    if config.quantization_config is not None:
        settings = settings.replaced(quantization=config.quantization_config.quantization)
    _check_settings(shape, settings)
    return MemoryPlan(
        shape=shape,
        settings=settings,
        device=device,
        weights=weight_bytes(shape, settings, device),
        activations=activation_bytes(shape, settings, device)
        + attention_bytes(shape, settings, device)
        + cast_bytes(shape, settings, device),
        media=media_bytes(shape, settings, device),
        bytes_per_block=config.num_layers * _cache_spec(shape, settings).bytes_per_block,
    )


def can_share(shape: ModelShape, settings: EngineSettings, ranks: int) -> bool:
    """Whether ``ranks`` can share a model under these settings."""
    shard = replace(settings.parallel, tensor_parallel_size=ranks).shard(shape.config)
    return _can_read(shape, ranks) and can_split(shape.config, shard, _block(shape, settings))


def _cache_spec(shape: ModelShape, settings: EngineSettings) -> CacheSpec:
    """Return one block of one layer of a rank's KV cache."""
    heads = len(kv_heads_of(shape.config, settings.parallel.shard(shape.config)))
    head_dim = shape.config.head_dim
    dtype = settings.cache_dtype
    scales = None
    if shape.has_cache_scales:
        dtype = "int8"
        ones = np.broadcast_to(np.float32(1), (heads, head_dim))
        scales = CacheScales(ones, ones)
    return CacheSpec(1, settings.cache.block_size, heads, head_dim, dtype, scales)


def _check_settings(shape: ModelShape, settings: EngineSettings) -> None:
    """Check what a plan assumes.

    Raises:
        StartError: the model, or its checkpoint, cannot be shared by that many ranks, or the KV cache that the
            user chose does not hold one request.
    """
    ranks, parts = settings.parallel.tensor_parallel_size, shape.num_parts
    if not _can_read(shape, ranks):
        raise StartError(
            f"the checkpoint was cut for {parts} ranks (rank0 to rank{parts - 1}) and tensor_parallel_size is "
            f"{ranks}; give {parts}, or 1, which joins the parts"
        )
    check_split(shape.config, settings.parallel.shard(shape.config), _block(shape, settings))
    blocks = settings.cache.num_gpu_blocks_override
    if blocks is not None and blocks < settings.blocks_per_request:
        raise StartError(
            f"num_gpu_blocks_override {blocks} is less than the {settings.blocks_per_request} blocks of one "
            f"request of max_model_len {settings.loading.max_model_len}; raise it, or lower max_model_len "
            f"(at most {blocks * settings.cache.block_size} fits)"
        )


def _block(shape: ModelShape, settings: EngineSettings) -> int:
    return expert_block(shape.config.quantization_config, settings.loading.quantization)


def _can_read(shape: ModelShape, ranks: int) -> bool:
    """Whether ``ranks`` can read the checkpoint: one in parts is for as many as there are, or for one."""
    return shape.num_parts == 1 or ranks in (1, shape.num_parts)
