"""A rank's part of the model: its weights, its KV cache and its runner. A single rank has the whole model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import Backend
from ernie_backend.devices.host import release_freed, resident_bytes
from ernie_backend.errors import StartError
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.models.base import Model
from ernie_backend.models.load import load_model
from ernie_backend.parallel.layout import Layout
from ernie_backend.planning.kv_sizing import check_available, kv_blocks
from ernie_backend.planning.memory_plan import MemoryPlan
from ernie_backend.planning.units import format_bytes
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.encoder import Encoder, Normalization
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_backend.weights.sharding import Shard, kv_heads_of, vocabulary_of
from ernie_kernels.api import CacheScales, CacheSpec, Ops, UnsupportedError
from ernie_kernels.communicator import ProcessGroupConfig
from ernie_kernels.sampling import SamplingFilters, TokenChoices, sampling_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """One rank: its part of the model, and the ops over it. Make it with ``load``.

    Attributes:
        ops: the backend.
        model: the rank's part of the model.
        shard: which part that is.
        weight_bytes: memory that the weights took.
        used_bytes: memory that loading took, the backend's own included.
        card_free_bytes: returns the free memory of the rank's card; None: it has none, or does not say.
    """

    ops: Ops
    model: Model
    shard: Shard
    weight_bytes: int
    used_bytes: int
    card_free_bytes: Callable[[], int | None] = lambda: None

    @classmethod
    def load(
        cls,
        settings: EngineSettings,
        config: ModelConfig,
        backend: Backend,
        layout: Layout,
        group: ProcessGroupConfig | None = None,
    ) -> Worker:
        """Join the other ranks, if ``group`` says how, and load this rank's part of the model.

        Raises:
            StartError: the backend cannot be used, or the weights cannot be loaded.
        """
        before = resident_bytes()
        ops = backend.create_ops(layout.threads_per_rank(settings.threads), group)
        without_weights = resident_bytes()
        rank = 0 if group is None else group.rank
        shard = settings.parallel.shard(config, rank)
        with _refusals():
            model = load_model(settings.model, config, ops, settings.loading, shard)
        release_freed()
        after = resident_bytes()
        return cls(
            ops,
            model,
            shard,
            max(0, after - without_weights),
            max(0, after - before),
            partial(backend.card_free_bytes, ops),
        )

    def block_spec(self, settings: EngineSettings) -> CacheSpec:
        """Return one block of one layer of this rank's KV cache."""
        config = self.model.config
        dtype = settings.cache_dtype
        num_heads = len(kv_heads_of(config, self.shard))
        size, scales = settings.cache.block_size, self._scales(dtype)[0]
        return CacheSpec(1, size, num_heads, config.head_dim, dtype, scales)

    def affordable_blocks(self, settings: EngineSettings, plan: MemoryPlan, available_bytes: int) -> int:
        """Return how many blocks of KV cache this rank has memory for, at most what all requests can use.

        Args:
            settings: the engine's.
            plan: the rank's.
            available_bytes: memory that the rank can allocate now, after loading; ignored on a card.

        Raises:
            StartError: not even one request fits, or the number of blocks that the user set does not, or other
                processes have taken the memory since the plan was made.
        """
        bytes_per_block = self.block_spec(settings).bytes_per_block * self.model.config.num_layers
        if plan.device.is_shared:
            taken = self.used_bytes + plan.activations + plan.media
        else:
            taken = self._profiled_bytes(settings, plan)
        num_blocks = kv_blocks(settings, bytes_per_block, plan.budget - taken)
        if plan.device.is_shared:
            check_available(num_blocks, bytes_per_block, available_bytes)
        return num_blocks

    def _profiled_bytes(self, settings: EngineSettings, plan: MemoryPlan) -> int:
        """Return what weights and the largest step take of a card: measured, or planned if it does not say.

        Of what is free afterwards, nothing but media and the KV cache is taken. The step's own small cache
        stays counted: Paddle keeps it.

        Raises:
            StartError: the card has no memory for that step.
        """
        if self.card_free_bytes() is None:
            return plan.fixed
        step, num_blocks = largest_step(settings)
        choices = TokenChoices(
            step.sampled_places,
            sampling_batch([(SamplingFilters(top_p=0.8), 0.5)] * len(step.chunks)),
            self.model.config.vocab_size,
        )
        try:
            self.create_runner(replace(self.block_spec(settings), num_blocks=num_blocks)).run(step, choices)
        except MemoryError as error:  # so Paddle reports that a card is full
            limits = settings.scheduler
            raise StartError(
                f"beside the weights, the card has no memory for a step of max_num_batched_tokens "
                f"{limits.max_num_batched_tokens} and max_num_seqs {limits.max_num_seqs} with max_model_len "
                f"{settings.loading.max_model_len}; lower them, or share the model between more cards by "
                "tensor_parallel_size"
            ) from error
        free = self.card_free_bytes()
        if free is None:
            return plan.fixed
        taken = max(0, plan.memory - free) + plan.media
        logger.info(
            "start: profile step of %d tokens: weights and activations take %s, planned were %s",
            step.num_tokens,
            format_bytes(taken),
            format_bytes(plan.fixed),
        )
        return taken

    def create_runner(self, spec: CacheSpec, media: MediaProcessor | None = None) -> ModelRunner:
        """Allocate a KV cache of ``spec`` for each layer; return the runner over them.

        Args:
            spec: of one layer's cache.
            media: prepares what the model's vision tower encodes; None: the model reads only text.

        Raises:
            StartError: the backend has no such cache.
        """
        scales = self._scales(spec.dtype)
        with _refusals():
            caches = [self.ops.allocate_cache(replace(spec, scales=each)) for each in scales]
        is_whole = self.shard.size == 1
        vocabulary = None if is_whole else vocabulary_of(self.model.config.vocab_size, self.shard)
        return ModelRunner(self.model, self.ops, caches, vocabulary, self._encoder(media))

    def _encoder(self, media: MediaProcessor | None) -> Encoder | None:
        if media is None or self.model.vision is None:
            return None
        return Encoder(self.model.vision, self.ops, Normalization(media.mean, media.std))

    def _scales(self, dtype: str) -> Sequence[CacheScales | None]:
        """Return the static scales of the layers' caches of ``dtype``."""
        return self.model.cache_scales if dtype == "int8" else [None] * self.model.config.num_layers


def largest_step(settings: EngineSettings) -> tuple[SchedulePlan, int]:
    """Return the step that takes the most memory, and how many blocks it takes.

    It has as many tokens and sequences as there may be, all at the end of the longest contexts: one the rest of
    a prompt, the others a token. They share blocks, again and again, since what is stored does not matter.
    """
    limits, size = settings.scheduler, settings.cache.block_size
    sequences = min(limits.max_num_seqs, limits.max_num_batched_tokens)
    prompt = min(limits.max_num_batched_tokens - sequences + 1, settings.loading.max_model_len)
    num_blocks, length = -(-prompt // size), settings.loading.max_model_len
    table = tuple(block % num_blocks for block in range(settings.blocks_per_request))
    chunks = [
        ScheduledChunk("profile", (0,) * count, length - count, table, num_sampled=1)
        for count in (prompt, *[1] * (sequences - 1))
    ]
    return SchedulePlan(tuple(chunks)), num_blocks


@contextmanager
def _refusals() -> Iterator[None]:
    """Report what a backend cannot do as an error of the start."""
    try:
        yield
    except UnsupportedError as error:
        raise StartError(str(error)) from error
