"""The scheduler: which tokens of which requests the next step computes.

Continuous batching in the order of rank, which is priority (lower first), then arrival:

1. every running request that is decoding gets its one token, and then drafts of the tokens after it;
2. unfinished prompts, of running requests and of waiting ones that find room in the batch and in the KV cache,
   are computed as far as ``max_num_batched_tokens`` goes.

A long prompt does not own the steps that it takes. The first prompt that does not end within a step gets half
of what is left of it; prompts that pass it (of a better priority, or of the same one with fewer tokens to go)
share the other half, the shortest first, and it gets what they leave. So a short prompt waits about twice its
own time, however long the one before it is, and the long one takes at most twice as long, however many pass it.
Prompts of equal length still come one after the other: to share would only delay the first.

A request is given blocks for all its known tokens when it is admitted, and one more whenever decoding fills the
last. If none is free then, the last in rank of the running is preempted: it gives up its blocks, goes back to
the queue and later computes its tokens again, as far as the prefix cache does not have them (none is sampled
twice). The first in rank of the running is never preempted, so every step brings somebody forward: no deadlock.

Nobody is preempted to admit another: a waiting request of better priority gets the next free place, and places
become free since every answer is bounded. Within one priority nobody starves: once the long prompts before a
request have ended, it finds room, or none is admitted until it does. Between priorities starvation is what was
asked for: as long as better ones keep coming, worse ones wait; ``max_waiting_time`` ends that with an error.

Two things let a request pass those before it in the queue, neither for long. Short prompts pass long ones, as
above, while no more than ``max_num_partial_prefills`` are under way and, of these, no more than
``max_long_partial_prefills`` long ones: each holds blocks for all of its prompt. A prompt that found no room to
share the step is not passed. And a request whose next block is being computed by another in this very step
waits for the next one, to share it.

A request that wants the logits of its prompt takes nothing from the prefix cache. All of them together get at
most ``max_prompt_logit_rows`` tokens of prompt a step, and others may pass them: a row is as wide as the
vocabulary.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.plan import SchedulePlan
from ernie_backend.request.sequence import Sequence
from ernie_backend.scheduler.waiting_queue import WaitingQueue, rank
from ernie_backend.settings.groups import SchedulerLimits
from ernie_wire.errors import ContextLengthExceeded

logger = logging.getLogger(__name__)


@dataclass
class _Draft:
    """A plan in the making.

    Attributes:
        budget: tokens it may still take.
        prompt_rows: tokens it may still take whose logits are wanted although nothing is sampled from them.
        is_full: whether a request had to give up its blocks, or one that waits found no room: none is admitted.
        ends: for each request in the plan, in its order, how many of its tokens will have been computed.
        unfinished: running requests whose prompts it does not finish, without those that wait for prompt rows.
    """

    budget: int
    prompt_rows: int
    is_full: bool = False
    ends: dict[Sequence, int] = field(default_factory=dict)
    unfinished: set[Sequence] = field(default_factory=set)


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
                self._take(sequence, 1, draft)
        for sequence in [each for each in draft.ends if each.draft_ids]:
            self._take_drafts(sequence, draft)
        under_way = [each for each in self._running if not each.is_decoding]
        draft.unfinished.update(each for each in under_way if not each.needs_prompt_logits)
        for sequence in self._prompts_by_rank(under_way, draft):
            num_left = sequence.num_tokens - sequence.num_computed_tokens
            if sequence.needs_prompt_logits or num_left <= draft.budget:
                self._take(sequence, draft.budget, draft)
                continue
            self._take(sequence, -(-draft.budget // 2), draft)
            for passing in self._prompts_that_pass(sequence, draft):
                self._take(passing, draft.budget, draft)
            self._take(sequence, draft.budget, draft)
        ends = draft.ends.items()
        return SchedulePlan(
            tuple(sequence.chunk(end, self._blocks.table(sequence.request_id)) for sequence, end in ends)
        )

    def complete(self, plan: SchedulePlan) -> None:
        """Note that the tokens of ``plan`` are in the KV cache now, without those after a wrong draft.

        The sampled tokens have been added to the sequences.
        """
        running = {sequence.request_id: sequence for sequence in self._running}
        for chunk in plan.chunks:
            sequence = running[chunk.request_id]
            end = min(chunk.start + len(chunk.token_ids), len(sequence.token_ids) - 1)
            sequence.num_computed_tokens = end
            sequence.draft_ids = ()
            self._blocks.cache_blocks(
                chunk.request_id, sequence.token_ids, chunk.start, end, salt=sequence.cache_salt
            )

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
            draft.is_full = True
            self.num_preemptions += 1
            logger.info("request %s gives up its KV blocks and waits again", last.request_id)
            if last is sequence:
                return False
        return True

    def _prompts_by_rank(self, under_way: Iterable[Sequence], draft: _Draft) -> Iterator[Sequence]:
        """Yield unfinished prompts, admitting those that wait and find room, while there is a budget."""
        running = deque(under_way)
        while draft.budget:
            waiting = self._waiting if self._has_room(draft) else ()
            ahead = (each for each in waiting if not running or rank(each) < rank(running[0]))
            admitted = next((each for each in ahead if self._admit(each, draft)), None)
            if admitted is not None:
                yield admitted
            elif running:
                yield running.popleft()
            else:
                return

    def _prompts_that_pass(self, lead: Sequence, draft: _Draft) -> Iterator[Sequence]:
        """Yield the prompts that share the steps of ``lead``, admitting those that wait and find room."""
        under_way = [each for each in self._running if not (each.is_decoding or each in draft.ends)]
        waiting = self._waiting if self._has_room(draft) else ()
        places = {each: self._place(each) for each in (lead, *under_way, *waiting)}
        passing = [each for each in places if places[each] < places[lead]]
        for sequence in sorted(passing, key=places.__getitem__):
            if not draft.budget:
                return
            if sequence in under_way or self._admit(sequence, draft):
                yield sequence

    def _place(self, sequence: Sequence) -> tuple[int, int]:
        """Return what prompts that share a step are sorted by: priority, then tokens still to be computed."""
        num_computed = sequence.num_computed_tokens
        if not num_computed and not sequence.needs_prompt_logits:
            num_computed = self._blocks.num_cached_tokens(
                sequence.request_id, sequence.token_ids, salt=sequence.cache_salt
            )
        return sequence.priority, sequence.num_tokens - num_computed

    def _may_begin(self, sequence: Sequence, draft: _Draft) -> bool:
        """Whether a waiting request has something to compute in this step that no other computes in it."""
        if sequence.needs_prompt_logits:
            return draft.prompt_rows > 0
        return not self._blocks.is_scheduled(sequence.request_id, sequence.token_ids, salt=sequence.cache_salt)

    def _has_room(self, draft: _Draft) -> bool:
        """Whether the batch has room for a further request."""
        return (
            not draft.is_full
            and len(self._running) < self._limits.max_num_seqs
            and len(draft.unfinished) < self._limits.max_num_partial_prefills
        )

    def _admit(self, sequence: Sequence, draft: _Draft) -> bool:
        """Move a waiting request into the batch, if it may begin and there is room.

        One that finds none is the last of its step: others would take the room that it waits for.
        """
        num_long = sum(self._is_long(each) for each in draft.unfinished)
        is_long_too_many = self._is_long(sequence) and num_long >= self._limits.max_long_partial_prefills
        if draft.is_full or is_long_too_many or not self._may_begin(sequence, draft):
            return False
        if not (self._has_room(draft) and self._give_blocks(sequence)):
            draft.is_full = True
            return False
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=rank)
        if not sequence.needs_prompt_logits:
            draft.unfinished.add(sequence)
        return True

    def _give_blocks(self, sequence: Sequence) -> bool:
        """Give a waiting request blocks for all its tokens, if they are free.

        One block per running request stays free: else the next step might preempt what this one admits.
        """
        request_id, headroom, reuse = sequence.request_id, len(self._running), not sequence.needs_prompt_logits
        num_cached = self._blocks.allocate(
            request_id, sequence.token_ids, headroom=headroom, reuse=reuse, salt=sequence.cache_salt
        )
        if num_cached is None:
            return False
        sequence.num_computed_tokens = num_cached
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = num_cached
        return True

    def _is_long(self, sequence: Sequence) -> bool:
        return sequence.num_tokens > self._limits.long_prefill_token_threshold

    def _take(self, sequence: Sequence, most: int, draft: _Draft) -> None:
        """Let the plan take up to ``most`` further tokens of a request."""
        start = draft.ends.get(sequence, sequence.num_computed_tokens)
        wants_all_logits = sequence.needs_prompt_logits
        num_tokens = min(most, sequence.num_tokens - start, draft.prompt_rows if wants_all_logits else most)
        if num_tokens == 0:
            return
        end = start + num_tokens
        self._blocks.mark_scheduled(
            sequence.request_id, sequence.token_ids, start, end, salt=sequence.cache_salt
        )
        draft.ends[sequence] = end
        if end == sequence.num_tokens:
            draft.unfinished.discard(sequence)
        draft.budget -= num_tokens
        if wants_all_logits:
            draft.prompt_rows -= num_tokens

    def _take_drafts(self, sequence: Sequence, draft: _Draft) -> None:
        """Let the plan take drafts of a decoding request, as far as budget, answer and free blocks go."""
        most = min(draft.budget, sequence.max_total_tokens - sequence.num_tokens - 1)
        num_drafts = min(len(sequence.draft_ids), most)
        if self._blocks.grow(sequence.request_id, sequence.num_tokens + num_drafts):
            draft.ends[sequence] += num_drafts
            draft.budget -= num_drafts
