"""The scheduler: which tokens of which requests the next step computes.

Continuous batching in the order of rank, which is priority (lower first), then arrival:

1. every running request that is decoding gets its one token, then drafts of the tokens after it;
2. unfinished prompts, of running requests and of waiting ones for which batch and KV cache have room, are
   computed as far as ``max_num_batched_tokens`` goes; beside decoding requests, as far as it would if all
   ``max_num_seqs`` were decoding.

Long prompts. A prompt that does not end within a step does not own the steps that it takes: the first such one
gets half of what is left of a step. Prompts that pass it (of a better priority, or of the same one with fewer
tokens to go) share the other half, the shortest first, and it gets what they leave. So a short prompt waits
about twice its own time, however long the one before it is, and the long one takes at most twice as long,
however many pass it. Prompts of equal length still come one after the other: sharing would only delay the
first.

Preemption. A request is given blocks for all its known tokens when it is admitted, and one more whenever
decoding fills the last. If none is free then, the running request that is last in rank is preempted: it frees
its blocks, returns to the queue and later computes its tokens again, as far as the prefix cache does not have
them (no token is sampled twice). The first in rank is never preempted, so every step makes progress: no
deadlock.

Fairness. No request is preempted to admit another: a waiting request of better priority gets the next free
place, and places become free since every answer is bounded. Within one priority no request starves: once the
long prompts before it have ended, it finds room, or none is admitted until it does. Between priorities
starvation is intended: as long as better ones keep coming, worse ones wait; ``max_waiting_time`` ends that with
an error.

Two things let a request pass those before it in the queue, neither indefinitely. Short prompts pass long ones,
as above, while no more than ``max_num_partial_prefills`` are in progress and, of these, no more than
``max_long_partial_prefills`` long ones: each holds blocks for all of its prompt. A prompt that found no room to
share the step is not passed. And a request whose next block is computed by another in this very step waits for
the next step, to share it.

Media. The tokens of a picture or a video can be computed only when it is encoded (``encoder_schedule``). A
request waits in the queue, holding no blocks, until the media that its first step may reach are encoded; others
pass it meanwhile. In the batch it goes on up to the next medium that is not encoded, and while it cannot go on
it does not count as a prompt in progress.

Prompt log probabilities. A request that needs the logits of its prompt takes nothing from the prefix cache. All
such requests together get at most ``max_prompt_logit_rows`` tokens of prompt a step, and others may pass them:
a row is as wide as the vocabulary.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.media import MediaItem
from ernie_backend.request.sequence import Sequence
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.scheduler.encoder_schedule import EncoderSchedule, EncoderTask, check_media_room
from ernie_backend.scheduler.waiting_queue import WaitingQueue, rank
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.errors import ContextLengthExceeded

logger = logging.getLogger(__name__)


@dataclass
class _Step:
    """The plan of a step while it is being made.

    Attributes:
        budget: tokens it may still take.
        prompt_rows: tokens it may still take that need logits although nothing is sampled from them.
        is_full: whether a request was preempted, or a waiting one found no room: no more are admitted.
        ends: for each request in the plan, in order, how many of its tokens will have been computed.
        unfinished: running requests whose prompts it does not finish, except those that need prompt rows.
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
        self._encoder = EncoderSchedule(limits.encoder_cache_tokens, limits.max_num_batched_tokens)

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
            QueueFull: the queue is full, or holds as many media as it may.
            ContextLengthExceeded: the whole KV cache is too small for it.
        """
        need = self._blocks.blocks_for(sequence.max_total_tokens)
        if need > self._blocks.num_blocks:
            limit = self._blocks.num_blocks * self._blocks.block_size
            num_prompt, num_answer = len(sequence.prompt_ids), sequence.sampling.max_tokens
            raise ContextLengthExceeded.of(
                limit, num_prompt, num_answer, note="The KV cache holds no more (num_gpu_blocks_override)."
            )
        check_media_room(sequence, (*self._running, *self._waiting), self._limits.max_media_bytes)
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
        """Plan the next step; the plan is empty only if all requests wait for media to be encoded."""
        self._blocks.begin_step()
        step = _Step(self._limits.max_num_batched_tokens, self._limits.max_prompt_logit_rows)
        # Lists, since preempting changes ``_running``; a request may be preempted before its turn comes.
        for sequence in [each for each in self._running if each.is_decoding]:
            if step.budget and not (step.is_full and sequence not in self._running):
                self._schedule_decoding(sequence, step)
        # Drafts only after every request has its one token: a guess must not displace what is certain.
        for sequence in [each for each in step.ends if each.draft_ids]:
            self._schedule_drafts(sequence, step)
        if step.ends:
            step.budget = min(step.budget, self._limits.prompt_tokens_beside_answers)
        partial = [each for each in self._running if not each.is_decoding and self._can_go_on(each)]
        step.unfinished.update(each for each in partial if not each.needs_prompt_logits)
        for sequence in self._prompts_by_rank(partial, step):
            num_left = sequence.num_tokens - sequence.num_computed_tokens
            if sequence.needs_prompt_logits or num_left <= step.budget:
                self._schedule(sequence, step.budget, step)
                continue
            # A prompt that does not end here: half of the rest is its own, the other half may be passed in.
            self._schedule(sequence, -(-step.budget // 2), step)
            for passing in self._prompts_that_pass(sequence, step):
                self._schedule(passing, step.budget, step)
            self._schedule(sequence, step.budget, step)
        ends = step.ends.items()
        return SchedulePlan(
            tuple(sequence.chunk(end, self._blocks.table(sequence.request_id)) for sequence, end in ends)
        )

    def complete(self, plan: SchedulePlan) -> None:
        """Note that the tokens of ``plan`` are in the KV cache now, except those after a wrong draft.

        The sampled tokens have been added to the sequences.
        """
        running = {sequence.request_id: sequence for sequence in self._running}
        for chunk in plan.chunks:
            sequence = running[chunk.request_id]
            # The newest token has only been sampled; of the drafts, only accepted ones are in ``token_ids``.
            end = min(chunk.start + len(chunk.token_ids), len(sequence.token_ids) - 1)
            sequence.num_computed_tokens = end
            sequence.draft_ids = ()
            self._blocks.cache_blocks(sequence, chunk.start, end)

    def next_medium(self) -> EncoderTask | None:
        """Return what to encode next, and which embeddings to drop before; None: nothing.

        ``finish_medium`` must follow, or a medium that is not finished is chosen again.
        """
        waiting = islice((each for each in self._waiting if each.media), self._limits.max_num_seqs)
        return self._encoder.choose(
            [(each, each.num_computed_tokens) for each in self._running if each.media],
            ((each, self._first_token(each)) for each in waiting),
        )

    def finish_medium(self, item: MediaItem) -> None:
        """Note that a medium is encoded: its tokens can be computed."""
        self._encoder.add(item)

    def needing(self, digest: bytes) -> Iterator[Sequence]:
        """Yield the requests that have yet to compute tokens of a medium."""
        for sequence in self._running:
            if self._encoder.needs(sequence, sequence.num_computed_tokens, digest):
                yield sequence
        for sequence in self._waiting:
            if any(item.digest == digest for item in sequence.media_items) and self._encoder.needs(
                sequence, self._first_token(sequence), digest
            ):
                yield sequence

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

    def _grow_or_preempt(self, sequence: Sequence, step: _Step) -> bool:
        """Give a decoding request a block for its token; False if it had to be preempted itself."""
        while not self._blocks.grow(sequence.request_id, sequence.num_tokens):
            # Decoding requests are planned in rank order and the last one gives way, so none that is in the
            # plan already is ever preempted.
            last = self._running.pop()
            self._blocks.free(last.request_id)
            last.num_computed_tokens = 0
            self._waiting.put_back(last)
            step.is_full = True
            self.num_preemptions += 1
            logger.info("request %s gives up its KV blocks and waits again", last.request_id)
            if last is sequence:
                return False
        return True

    def _prompts_by_rank(self, partial: Iterable[Sequence], step: _Step) -> Iterator[Sequence]:
        """Yield unfinished prompts, admitting those that wait and find room, while there is a budget."""
        running = deque(partial)
        while step.budget:
            waiting = self._waiting if self._has_room(step) else ()
            # A waiting request comes before running ones of worse rank, so the two orders are merged.
            ahead = (each for each in waiting if not running or rank(each) < rank(running[0]))
            admitted = next((each for each in ahead if self._admit(each, step)), None)
            if admitted is not None:
                yield admitted
            elif running:
                yield running.popleft()
            else:
                return

    def _prompts_that_pass(self, lead: Sequence, step: _Step) -> Iterator[Sequence]:
        """Yield the prompts that share the steps of ``lead``, admitting those that wait and find room."""
        partial = [
            each
            for each in self._running
            if not (each.is_decoding or each in step.ends) and self._can_go_on(each)
        ]
        waiting = self._waiting if self._has_room(step) else ()
        keys = {each: self._passing_key(each) for each in (lead, *partial, *waiting)}
        passing = [each for each in keys if keys[each] < keys[lead]]
        for sequence in sorted(passing, key=keys.__getitem__):
            if not step.budget:
                return
            if sequence in partial or self._admit(sequence, step):
                yield sequence

    def _passing_key(self, sequence: Sequence) -> tuple[int, int]:
        """Return what decides whether a prompt passes another: priority, then tokens still to be computed."""
        num_computed = sequence.num_computed_tokens or self._first_token(sequence)
        return sequence.priority, sequence.num_tokens - num_computed

    def _first_token(self, sequence: Sequence) -> int:
        """Return the token that a request which owns no blocks would begin with: the cache has those before."""
        return 0 if sequence.needs_prompt_logits else self._blocks.num_cached_tokens(sequence)

    def _can_go_on(self, sequence: Sequence) -> bool:
        """Whether a prompt in the batch does not wait for its next token to be encoded."""
        start = sequence.num_computed_tokens
        return self._encoder.ready_end(sequence, start) > start

    def _may_begin(self, sequence: Sequence, step: _Step) -> bool:
        """Whether a waiting request has something to compute in this step that no other computes in it."""
        if sequence.media and not self._encoder.is_ready(sequence, self._first_token(sequence)):
            return False
        if sequence.needs_prompt_logits:
            return step.prompt_rows > 0
        return not self._blocks.is_scheduled(sequence)

    def _has_room(self, step: _Step) -> bool:
        """Whether the batch has room for a further request."""
        return (
            not step.is_full
            and len(self._running) < self._limits.max_num_seqs
            and len(step.unfinished) < self._limits.max_num_partial_prefills
        )

    def _admit(self, sequence: Sequence, step: _Step) -> bool:
        """Move a waiting request into the batch, if it may begin and there is room.

        If it may begin and finds no room, the step is full: others would take the room that it waits for.
        """
        num_long = sum(self._is_long(each) for each in step.unfinished)
        is_long_too_many = self._is_long(sequence) and num_long >= self._limits.max_long_partial_prefills
        if step.is_full or is_long_too_many or not self._may_begin(sequence, step):
            return False
        # One block per running request stays free: otherwise the next step might preempt what this one admits.
        headroom, reuse = len(self._running), not sequence.needs_prompt_logits
        has_room = self._has_room(step)
        num_cached = self._blocks.allocate(sequence, headroom=headroom, reuse=reuse) if has_room else None
        if num_cached is None:
            step.is_full = True
            return False
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=rank)
        sequence.num_computed_tokens = num_cached
        if sequence.num_cached_tokens is None:  # after a preemption, the count of the first time stays
            sequence.num_cached_tokens = num_cached
        if not sequence.needs_prompt_logits:
            step.unfinished.add(sequence)
        return True

    def _is_long(self, sequence: Sequence) -> bool:
        return sequence.num_tokens > self._limits.long_prefill_token_threshold

    def _schedule(self, sequence: Sequence, most: int, step: _Step) -> None:
        """Add up to ``most`` further tokens of a request to the plan."""
        start = step.ends.get(sequence, sequence.num_computed_tokens)
        needs_all_logits = sequence.needs_prompt_logits
        ready_end = self._encoder.ready_end(sequence, sequence.num_computed_tokens)
        num_tokens = min(most, ready_end - start, step.prompt_rows if needs_all_logits else most)
        if num_tokens == 0:
            return
        end = start + num_tokens
        self._blocks.mark_scheduled(sequence, start, end)
        step.ends[sequence] = end
        if end == ready_end:  # it ends, or waits for its next medium
            step.unfinished.discard(sequence)
        step.budget -= num_tokens
        if needs_all_logits:
            step.prompt_rows -= num_tokens

    def _schedule_decoding(self, sequence: Sequence, step: _Step) -> None:
        """Add the newest token of a request to the plan, if there is a block for it."""
        if self._grow_or_preempt(sequence, step):
            end = step.ends[sequence] = sequence.num_tokens
            step.budget -= 1
            self._blocks.mark_scheduled(sequence, end - 1, end)

    def _schedule_drafts(self, sequence: Sequence, step: _Step) -> None:
        """Add drafts of a decoding request to the plan, as far as budget, answer and free blocks go."""
        # The last token of the answer needs no draft: nothing is sampled after it.
        most = min(step.budget, sequence.max_total_tokens - sequence.num_tokens - 1)
        num_drafts = min(len(sequence.draft_ids), most)
        if self._blocks.grow(sequence.request_id, sequence.num_tokens + num_drafts):
            step.ends[sequence] += num_drafts
            step.budget -= num_drafts
