"""A rank's part of the model: its weights, its KV cache, and what runs them.

Rank 0 and the others load the same way; alone, the part is the whole. This module must not know sockets, nor
what the other ranks do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import Backend
from ernie_backend.models.base import LoadSettings, Model
from ernie_backend.models.load import load_model
from ernie_backend.planning.host_memory import release_freed, resident_bytes
from ernie_backend.planning.kv_sizing import KvDemand, check_available, check_blocks, kv_blocks
from ernie_backend.planning.memory_plan import MemoryPlan
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings import EngineSettings
from ernie_backend.weights.sharding import Shard, kv_heads_of, vocabulary_of
from ernie_kernels.api import CacheScales, CacheSpec, Ops
from ernie_kernels.communicator import ProcessGroupConfig


@dataclass(frozen=True)
class Seat:
    """A rank's place in its group; the default is that of a rank alone.

    Attributes:
        shard: which part is its.
        threads: its share of the threads that compute.
        group: how it finds the other ranks; None: there are none.
    """

    shard: Shard
    threads: int
    group: ProcessGroupConfig | None = None


@dataclass(frozen=True)
class ModelPart:
    """The weights of one rank, and the ops over them.

    Attributes:
        ops: the backend.
        model: the model, or the rank's part of it.
        shard: which part.
        weight_bytes: memory that the weights took.
        used_bytes: memory that loading took, the backend's own included.
    """

    ops: Ops
    model: Model
    shard: Shard
    weight_bytes: int
    used_bytes: int

    def block(self, settings: EngineSettings) -> CacheSpec:
        """Return one block of one layer of this rank's KV cache."""
        config = self.model.config
        dtype = self.model.cache_dtype if settings.kv_cache_dtype == "auto" else settings.kv_cache_dtype
        num_heads = len(kv_heads_of(config, self.shard))
        return CacheSpec(1, settings.block_size, num_heads, config.head_dim, dtype, self._scales(dtype)[0])

    def affordable_blocks(self, settings: EngineSettings, plan: MemoryPlan, available_bytes: int) -> int:
        """Return how many blocks of KV cache this rank has memory for, at most what all requests can use.

        Args:
            settings: the engine's.
            plan: the rank's.
            available_bytes: memory that the rank can take now, after loading; on a card the plan counts.

        Raises:
            StartError: not even one request fits, or not what the user asks for, or the memory is gone since
                the plan was made.
        """
        demand = KvDemand(
            bytes_per_block=self.block(settings).bytes_per_block * self.model.config.num_layers,
            block_size=settings.block_size,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
        )
        # Of a CPU's memory what was measured counts, of a card's the plan.
        taken = self.used_bytes + plan.activations if plan.device.is_shared else plan.fixed
        budget, override = plan.budget - taken, settings.num_gpu_blocks_override
        num_blocks = check_blocks(demand, override, budget) if override else kv_blocks(demand, budget)
        if plan.device.is_shared:
            check_available(demand, num_blocks, available_bytes)
        return num_blocks

    def runner(self, spec: CacheSpec) -> ModelRunner:
        """Allocate a KV cache like ``spec`` for each layer, and return what runs the model over it."""
        caches = [self.ops.allocate_cache(replace(spec, scales=scales)) for scales in self._scales(spec.dtype)]
        is_whole = self.shard.size == 1
        vocabulary = None if is_whole else vocabulary_of(self.model.config.vocab_size, self.shard)
        return ModelRunner(self.model, self.ops, caches, vocabulary)

    def _scales(self, dtype: str) -> Sequence[CacheScales | None]:
        """Return the static scales of the layers' caches of ``dtype``."""
        return self.model.cache_scales if dtype == "int8" else [None] * self.model.config.num_layers


def load_part(settings: EngineSettings, config: ModelConfig, backend: Backend, seat: Seat) -> ModelPart:
    """Join the other ranks, if there are any, and load this rank's part of the model.

    Raises:
        StartError: the backend cannot be used, or the weights cannot be loaded.
    """
    before = resident_bytes()
    ops = backend.create_ops(seat.threads, seat.group)
    without_weights = resident_bytes()
    how = LoadSettings(
        dtype=settings.dtype,
        quantization=settings.quantization,
        activation=settings.activation_dtype,
        max_positions=settings.max_model_len,
        is_dummy=settings.is_dummy,
        weight_cache=settings.weight_cache,
        shard=seat.shard,
    )
    model = load_model(settings.model, config, ops, how)
    release_freed()
    after = resident_bytes()
    return ModelPart(ops, model, seat.shard, max(0, after - without_weights), max(0, after - before))
