"""The scheduler: which tokens of which requests the next step computes.

Continuous batching in the order of rank, which is priority (lower first), then arrival:

1. every running request that is decoding gets its one token;
2. running requests with unfinished prompts get chunks of them, within ``max_num_batched_tokens``;
3. waiting requests are admitted while there is room in the batch, in the token budget and in the KV cache.

A request is given blocks for all its known tokens when it is admitted, and one more whenever decoding fills the
last. If none is free then, the last in rank of the running is preempted: it gives up its blocks, goes back to
the queue and later computes its tokens again, as far as the prefix cache does not have them (none is sampled
twice). The first in rank of the running is never preempted, so every step brings somebody forward: no deadlock.

Nobody is preempted to admit another: a waiting request of better priority gets the next free place, and places
become free since every answer is bounded. Within one priority nobody starves, because a request that finds too
few free blocks is not passed by smaller ones. Between priorities starvation is what was asked for: as long as
better ones keep coming, worse ones wait; ``max_waiting_time_s`` ends that with an error.

Two things let a request pass those before it in the queue, neither for long. With more than one partial
prefill, short prompts pass long ones while ``max_long_partial_prefills`` are under way. And a request whose
next block is being computed by another in this very step waits for the next one, to share it.

A request that wants the logits of its prompt takes nothing from the prefix cache. All of them together get at
most ``max_prompt_logit_rows`` tokens of prompt a step, and others may pass them: a row is as wide as the
vocabulary.

This module must not know tensors, text or sampling.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ernie_backend.engine.sequence import Sequence
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.scheduler.limits import SchedulerLimits
from ernie_backend.scheduler.plan import ScheduledChunk, SchedulePlan
from ernie_backend.scheduler.waiting_queue import WaitingQueue, rank
from ernie_wire.errors import ContextLengthExceeded

logger = logging.getLogger(__name__)


@dataclass
class _Draft:
    """A plan in the making.

    Attributes:
        budget: tokens it may still take.
        prompt_rows: tokens it may still take whose logits are wanted although nothing is sampled from them.
        has_preempted: whether a request had to give up its blocks for it, so that none is admitted.
        unfinished: requests that it leaves with unfinished prompts, except those that wait for prompt rows.
    """

    budget: int
    prompt_rows: int
    chunks: list[ScheduledChunk] = field(default_factory=list)
    has_preempted: bool = False
    unfinished: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Holds the running and the waiting requests and plans each step.

    Attributes:
        num_preemptions: how often a request has been preempted.
    """

    def __init__(
        self, limits: SchedulerLimits, blocks: BlockManager, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.num_preemptions = 0
        self._limits = limits
        self._blocks = blocks
        self._running: list[Sequence] = []  # by rank
        self._waiting = WaitingQueue(limits, clock)

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
            limit = self._blocks.num_blocks * self._blocks.block_size
            num_prompt, num_answer = len(sequence.prompt_ids), sequence.sampling.max_tokens
            raise ContextLengthExceeded.of(
                limit, num_prompt, num_answer, note="The KV cache holds no more (num_gpu_blocks_override)."
            )
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence, *, keep_content: bool = True) -> None:
        """Forget a finished or cancelled request, wherever it is; its blocks are free at once.

        Args:
            sequence: the request.
            keep_content: whether what it computed may be found by later requests.
        """
        self._blocks.free(sequence.request_id, keep_content=keep_content)
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)

    def expired(self) -> list[Sequence]:
        """Return the requests that have waited for their first step too long; they are still in the queue."""
        return self._waiting.expired()

    def schedule(self) -> SchedulePlan:
        """Plan the next step; the plan is empty only if there is no request at all."""
        self._blocks.begin_step()
        draft = _Draft(self._limits.max_num_batched_tokens, self._limits.max_prompt_logit_rows)
        for sequence in [each for each in self._running if each.is_decoding]:
            if draft.budget and sequence in self._running and self._grow_or_preempt(sequence, draft):
                self._plan(sequence, draft)
        for sequence in [each for each in self._running if not each.is_decoding]:
            if draft.budget:
                self._plan(sequence, draft)
        while draft.budget and not draft.has_preempted and (admitted := self._admit(draft)) is not None:
            self._plan(admitted, draft)
        return SchedulePlan(tuple(draft.chunks))

    def complete(self, plan: SchedulePlan, sequences: Mapping[str, Sequence]) -> None:
        """Note that the tokens of ``plan`` are in the KV cache now."""
        for chunk in plan.chunks:
            end = chunk.start + len(chunk.token_ids)
            sequences[chunk.request_id].num_computed_tokens = end
            self._blocks.commit(chunk.request_id, chunk.start, end)

    def check_integrity(self) -> None:
        """Check the invariants in the module's docstring.

        Raises:
            ValueError: one does not hold.
        """
        self._blocks.check_integrity()
        self._waiting.check_integrity()
        ranks = [rank(sequence) for sequence in self._running]
        if ranks != sorted(ranks):
            raise ValueError(f"running requests are out of order: {ranks}")
        if any(self._blocks.table(sequence.request_id) for sequence in self._waiting):
            raise ValueError("a waiting request owns blocks")

    def _grow_or_preempt(self, sequence: Sequence, draft: _Draft) -> bool:
        """Give a decoding request room for its token; False if it had to be preempted itself."""
        while not self._blocks.grow(sequence.request_id, sequence.num_tokens):
            last = self._running.pop()
            self._blocks.free(last.request_id)
            last.num_computed_tokens = 0
            self._waiting.put_back(last)
            draft.has_preempted = True
            self.num_preemptions += 1
            logger.info("request %s gives up its KV blocks and waits again", last.request_id)
            if last is sequence:
                return False
        return True

    def _admit(self, draft: _Draft) -> Sequence | None:
        """Move the first waiting request that may run into the batch, if there is room for all its tokens.

        One block per running request stays free: else the next step might preempt what this one admits.
        """
        if len(self._running) >= self._limits.max_num_seqs:
            return None
        sequence = self._first_admissible(draft)
        if sequence is None:
            return None
        num_found = self._blocks.admit(
            sequence.request_id,
            sequence.token_ids,
            headroom=len(self._running),
            reuse=not sequence.needs_prompt_logits,
        )
        if num_found is None:
            return None
        sequence.num_computed_tokens = num_found
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = num_found
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=rank)
        return sequence

    def _first_admissible(self, draft: _Draft) -> Sequence | None:
        if len(draft.unfinished) >= self._limits.max_num_partial_prefills:
            return None
        num_long = sum(self._is_long(each) for each in draft.unfinished)
        has_room_for_long = num_long < self._limits.max_long_partial_prefills
        for sequence in self._waiting:
            if sequence.needs_prompt_logits:
                must_wait = draft.prompt_rows == 0
            else:
                must_wait = self._blocks.is_awaited(sequence.request_id, sequence.token_ids)
            if not must_wait and (has_room_for_long or not self._is_long(sequence)):
                return sequence
        return None

    def _is_long(self, sequence: Sequence) -> bool:
        return sequence.num_tokens > self._limits.long_prefill_token_threshold

    def _plan(self, sequence: Sequence, draft: _Draft) -> None:
        """Add as many tokens of a request to the plan as its budget, shared with other prompts, allows."""
        share = -(-self._limits.max_num_batched_tokens // self._limits.max_num_partial_prefills)
        start = sequence.num_computed_tokens
        room = min(share, draft.budget)
        if wants_all_logits := sequence.needs_prompt_logits:
            room = min(room, draft.prompt_rows)
        end = min(sequence.num_tokens, start + room)
        if end < sequence.num_tokens and not wants_all_logits:
            draft.unfinished.append(sequence)
        if end == start:
            return
        self._blocks.announce(sequence.request_id, sequence.token_ids, start, end)
        draft.chunks.append(
            ScheduledChunk(
                request_id=sequence.request_id,
                token_ids=tuple(sequence.token_ids[start:end]),
                start=start,
                block_table=self._blocks.table(sequence.request_id),
                is_sampled=end == sequence.num_tokens,
                wants_all_logits=wants_all_logits,
            )
        )
        draft.budget -= end - start
        if wants_all_logits:
            draft.prompt_rows -= end - start
