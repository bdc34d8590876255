"""The scheduler: which tokens of which requests the next step computes.

Continuous batching, first come, first served:

1. every running request that is decoding gets its one token;
2. running requests with unfinished prompts get chunks of them, within ``max_num_batched_tokens``;
3. waiting requests are admitted while there is room in the batch, in the token budget and in the KV cache.

A request is given blocks for all its known tokens when it is admitted, and one more whenever decoding fills the
last. If none is free then, the youngest running request is preempted: it gives up its blocks, goes back to the
head of the queue and later computes its tokens again (none is sampled twice). Both lists stay in order of
arrival and everything running is older than everything waiting, so the oldest request always proceeds: no
deadlock.

This module must not know tensors, text, sampling or the clock.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from ernie_backend.engine.sequence import Sequence
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.scheduler.plan import ScheduledChunk, SchedulePlan
from ernie_wire.errors import ContextLengthExceeded, QueueFull

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SchedulerLimits:
    """Limits of a batch and of the queue.

    Attributes:
        max_num_seqs: requests in one step.
        max_num_batched_tokens: tokens in one step.
        max_num_waiting: new requests in the queue; one more is refused.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_waiting: int


class Scheduler:
    """Holds the running and the waiting requests and plans each step."""

    def __init__(self, limits: SchedulerLimits, blocks: BlockManager) -> None:
        self._limits = limits
        self._blocks = blocks
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a new request into the queue.

        Raises:
            QueueFull: the queue is full.
            ContextLengthExceeded: the whole KV cache is too small for it.
        """
        need = self._blocks.blocks_for(sequence.max_total_tokens)
        if need > self._blocks.num_blocks:
            raise ContextLengthExceeded(
                f"the prompt and the answer may take {sequence.max_total_tokens} tokens, the KV cache holds "
                f"{self._blocks.num_blocks * self._blocks.block_size}; lower max_tokens or shorten the prompt"
            )
        if len(self._waiting) >= self._limits.max_num_waiting:
            raise QueueFull(
                f"{len(self._waiting)} requests are waiting and no more are accepted "
                f"(max_num_waiting {self._limits.max_num_waiting}); try again later"
            )
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled request, wherever it is; its blocks are free at once."""
        self._blocks.free(sequence.request_id)
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)

    def schedule(self) -> SchedulePlan:
        """Plan the next step; the plan is empty only if there is no request at all."""
        budget = self._limits.max_num_batched_tokens
        preempted: list[str] = []
        chunks: list[ScheduledChunk] = []
        for sequence in [each for each in self._running if each.is_decoding]:
            if budget > 0 and sequence in self._running and self._grow_or_preempt(sequence, preempted):
                chunks.append(self._chunk(sequence, 1))
                budget -= 1
        for sequence in [each for each in self._running if not each.is_decoding]:
            if budget > 0:
                chunks.append(self._chunk(sequence, budget))
                budget -= len(chunks[-1].token_ids)
        while budget > 0 and not preempted and self._admit():
            chunks.append(self._chunk(self._running[-1], budget))
            budget -= len(chunks[-1].token_ids)
        return SchedulePlan(tuple(chunks), tuple(preempted))

    def complete(self, plan: SchedulePlan, sequences: dict[str, Sequence]) -> None:
        """Note that the tokens of ``plan`` are in the KV cache now."""
        for chunk in plan.chunks:
            sequences[chunk.request_id].num_computed_tokens = chunk.start + len(chunk.token_ids)

    def check_integrity(self) -> None:
        """Check the invariants in the module's docstring.

        Raises:
            ValueError: one does not hold.
        """
        self._blocks.check_integrity()
        arrivals = [sequence.arrival for sequence in (*self._running, *self._waiting)]
        if arrivals != sorted(arrivals):
            raise ValueError(f"requests are out of order: {arrivals}")
        if any(self._blocks.table(sequence.request_id) for sequence in self._waiting):
            raise ValueError("a waiting request owns blocks")

    def _grow_or_preempt(self, sequence: Sequence, preempted: list[str]) -> bool:
        """Give a decoding request room for its token; False if it had to be preempted itself."""
        while not self._blocks.grow(sequence.request_id, sequence.num_tokens):
            youngest = self._running.pop()
            self._blocks.free(youngest.request_id)
            youngest.num_computed_tokens = 0
            self._waiting.appendleft(youngest)
            preempted.append(youngest.request_id)
            logger.info("request %s gives up its KV blocks and waits again", youngest.request_id)
            if youngest is sequence:
                return False
        return True

    def _admit(self) -> bool:
        """Move the head of the queue into the batch if there is room for all its tokens.

        One block per running request stays free: else the next step might preempt what this one admits.
        """
        if not self._waiting or len(self._running) >= self._limits.max_num_seqs:
            return False
        sequence = self._waiting[0]
        if not self._blocks.grow(sequence.request_id, sequence.num_tokens, headroom=len(self._running)):
            return False
        self._running.append(self._waiting.popleft())
        return True

    def _chunk(self, sequence: Sequence, budget: int) -> ScheduledChunk:
        start = sequence.num_computed_tokens
        end = min(sequence.num_tokens, start + budget)
        return ScheduledChunk(
            request_id=sequence.request_id,
            token_ids=tuple(sequence.token_ids[start:end]),
            start=start,
            block_table=self._blocks.table(sequence.request_id),
            is_sampled=end == sequence.num_tokens,
        )
