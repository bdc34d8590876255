"""The scheduler under everything that can happen to requests, with a model that sees every mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ernie_backend.engine.engine import Engine
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.media import MediaItem
from ernie_backend.request.sequence import Sequence
from ernie_backend.scheduler.scheduler import Scheduler
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.errors import ContextLengthExceeded, QueueFull
from fakes.media import PLACEHOLDER, HashEncoder, embedded, make_item, put_media
from fakes.sequences import make_request, make_sequence, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation

VOCAB = 50
RED, BLUE, WIDE, UNREADABLE = (make_item(seed, size) for seed, size in enumerate((2, 2, 3, 2)))


@dataclass(frozen=True)
class Talk:
    """A conversation: its tokens, and the pictures among them."""

    token_ids: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    items: tuple[MediaItem, ...] = ()

    def and_text(self, token_ids: Iterable[int]) -> Talk:
        return replace(self, token_ids=(*self.token_ids, *token_ids))

    def and_picture(self, item: MediaItem) -> Talk:
        ids = (*self.token_ids, *[PLACEHOLDER] * item.num_tokens)
        return Talk(ids, (*self.starts, len(self.token_ids)), (*self.items, item))

    @property
    def content(self) -> list[int]:
        """The tokens as the model sees them."""
        content = list(self.token_ids)
        for start, item in zip(self.starts, self.items, strict=True):
            content[start : start + item.num_tokens] = embedded(item)
        return content


class EngineMachine(RuleBasedStateMachine):
    """Requests arrive, are cancelled, run and end, in any order, in caches that are often too small.

    Few token ids and pictures, and prompts that continue earlier answers, make prefix hits as common as misses.
    """

    @initialize(
        max_num_seqs=st.integers(1, 4),
        budget=st.integers(1, 9),
        num_blocks=st.integers(5, 12),
        block_size=st.integers(1, 4),
        partial_prefills=st.integers(1, 3),
        long_prefills=st.integers(1, 3),
        enable_prefix_caching=st.booleans(),
        encoder_cache=st.integers(0, 6),
    )
    def start(
        self,
        max_num_seqs: int,
        budget: int,
        num_blocks: int,
        block_size: int,
        partial_prefills: int,
        long_prefills: int,
        enable_prefix_caching: bool,
        encoder_cache: int,
    ) -> None:
        self.budget, self.max_num_seqs = budget, max_num_seqs
        self.most_beside_answers = max(budget - max_num_seqs, (budget + 1) // 2)
        self.capacity = num_blocks * block_size
        self.encoder = HashEncoder((UNREADABLE.digest,))
        # Beyond the cache go at most the pictures that one step of one request needs.
        self.most_encoded = encoder_cache + max(encoder_cache, WIDE.num_tokens)
        self.runner = TokenHashRunner(num_blocks, block_size, VOCAB, self.encoder)
        self.blocks = BlockManager(num_blocks, block_size, enable_prefix_caching=enable_prefix_caching)
        limits = SchedulerLimits(
            max_num_seqs,
            budget,
            1000,
            max_num_partial_prefills=partial_prefills,
            max_long_partial_prefills=long_prefills,
            long_prefill_token_threshold=4,
            max_prompt_logit_rows=3,
            max_waiting_time=10.0,
            encoder_cache_tokens=encoder_cache,
        )
        self.now_s = 0.0
        self.engine = Engine(
            self.runner, self.blocks, limits, reference_sampler(VOCAB), self._clock, self.encoder
        )
        self.expected: dict[str, list[int]] = {}
        self.got: dict[str, list[int]] = {}
        self.failing: set[str] = set()
        self.conversations: list[Talk] = [Talk()]
        self.count = 0

    def _clock(self) -> float:
        """Let a piece of the encoder's work take as long as all of its share."""
        return self.now_s + self.encoder.num_pieces

    @rule(
        data=st.data(),
        turn=st.lists(st.integers(0, 1), min_size=1, max_size=8),
        max_tokens=st.integers(1, 12),
        priority=st.integers(-1, 1),
        prompt_logprobs=st.sampled_from([None, None, 0]),
        pictures=st.lists(st.sampled_from([RED, BLUE, WIDE, RED, BLUE, UNREADABLE]), max_size=3),
    )
    def arrive(
        self,
        data: st.DataObject,
        turn: list[int],
        max_tokens: int,
        priority: int,
        prompt_logprobs: int | None,
        pictures: list[MediaItem],
    ) -> None:
        talk: Talk = data.draw(st.sampled_from(self.conversations))
        for item in pictures:
            talk = talk.and_picture(item)
        talk = talk.and_text(turn)
        prompt = talk.token_ids
        request_id = f"r{self.count}"
        self.count += 1
        request = make_request(request_id, prompt, max_tokens, priority=priority)
        put_media(request.sequence, talk.starts, talk.items)
        request.sequence.sampling = replace(request.sequence.sampling, prompt_logprobs=prompt_logprobs)
        refusal = self.engine.submit(request)
        fits = len(prompt) + max_tokens <= self.capacity
        assert (refusal is None) == fits
        if fits:
            self.expected[request_id] = continuation(talk.content, max_tokens, VOCAB)
            self.got[request_id] = []
            if UNREADABLE in talk.items:
                self.failing.add(request_id)
            else:
                self.conversations.append(talk.and_text(self.expected[request_id]))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.expected:
            return
        request_id = data.draw(st.sampled_from(sorted(self.expected)))
        assert self.engine.cancel(request_id)
        assert not self.engine.cancel(request_id)
        del self.expected[request_id]

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(steps=st.integers(1, 6), num_right=st.integers(0, 3), num_wrong=st.integers(0, 2))
    def run_steps(self, steps: int, num_right: int, num_wrong: int) -> None:
        """Run steps before which the next tokens are guessed, the first of them rightly."""
        for _ in range(steps):
            for request in self.engine._requests.values():
                known = list(request.sequence.token_ids)
                for span in request.sequence.media:
                    known[span.start : span.end] = embedded(request.sequence.media_items[span.index])
                right = continuation(known, num_right, VOCAB)
                wrong = [each + 1 for each in continuation([*known, *right], num_wrong, VOCAB)]
                request.sequence.draft_ids = (*right, *wrong)
            self._step()

    def _step(self) -> None:
        had_work, steps_before = self.engine.has_work, len(self.runner.plans)
        pieces_before = self.encoder.num_pieces
        answering = {name for name, each in self.engine._requests.items() if each.sequence.is_decoding}
        outputs = self.engine.step()
        has_run = len(self.runner.plans) > steps_before
        expired = [output for output in outputs if output.error is not None]
        has_encoded = self.encoder.num_pieces > pieces_before
        assert had_work == (has_run or has_encoded or bool(expired)), "a step with work does something"
        assert sum(len(output) for output in self.encoder.outputs.values()) <= self.most_encoded
        if self.encoder.current is not None:
            assert self.encoder.current in {
                item.digest for each in self.engine._requests.values() for item in each.sequence.media_items
            }
        if has_run:
            plan = self.runner.plans[-1]
            assert 1 <= plan.num_tokens <= self.budget
            of_prompts = [len(chunk.token_ids) for chunk in plan.chunks if chunk.request_id not in answering]
            if len(of_prompts) < len(plan.chunks):
                assert sum(of_prompts) <= self.most_beside_answers
            assert len(plan.chunks) <= self.max_num_seqs
            assert len({chunk.request_id for chunk in plan.chunks}) == len(plan.chunks)
        for output in expired:
            error = str(output.error)
            is_late = error.startswith("timeout: ")
            assert is_late or (error.startswith("internal_error: ") and output.request_id in self.failing)
            assert not self.got[output.request_id], "it had not begun"
            del self.expected[output.request_id]
        for output in outputs[len(expired) :]:
            assert output.request_id in self.expected, "it has not ended before"
            assert output.request_id not in self.failing
            if output.prompt_logprobs is not None:
                assert not self.got[output.request_id]
                assert len(output.prompt_logprobs) == output.num_input_tokens
            self.got[output.request_id] += output.token_ids
            assert output.num_cached_tokens < output.num_input_tokens
            if output.is_last:
                assert self.got[output.request_id] == self.expected.pop(output.request_id)

    @invariant()
    def nothing_is_leaked(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check_integrity()
            assert self.engine.has_work == bool(self.expected)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(5000):
            if not self.expected:
                break
            self._step()
        assert not self.expected, "every request ends"
        beat = self.engine.heartbeat
        assert (beat.running, beat.waiting, beat.free_blocks) == (0, 0, beat.total_blocks)
        assert not self.blocks._hashes, "nothing is remembered of requests that are gone"


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


class Steps:
    """A scheduler whose steps are completed at once, as if the model sampled token 7 for ever."""

    def __init__(self, num_blocks: int = 40, block_size: int = 2, **limits: int) -> None:
        chosen: dict[str, Any] = {
            "max_num_seqs": 8,
            "max_num_batched_tokens": 8,
            "max_num_waiting": 10,
            **limits,
        }
        self.blocks = BlockManager(num_blocks, block_size)
        self.scheduler = Scheduler(SchedulerLimits(**{**chosen, **limits}), self.blocks)
        self.sequences: dict[str, Sequence] = {}

    def add(self, name: str, prompt: Iterable[int], max_tokens: int = 4, priority: int = 0) -> Sequence:
        sequence = make_sequence(name, tuple(prompt), max_tokens, priority=priority)
        sequence.arrival = len(self.sequences)
        self.scheduler.add(sequence)
        self.sequences[name] = sequence
        return sequence

    def step(self) -> list[tuple[str, int, int]]:
        """Return request, start and number of tokens of every chunk."""
        plan = self.scheduler.schedule()
        for chunk in plan.chunks:
            if chunk.num_sampled:
                self.sequences[chunk.request_id].append(7)
        self.scheduler.complete(plan)
        self.scheduler.check_integrity()
        return [(chunk.request_id, chunk.start, len(chunk.token_ids)) for chunk in plan.chunks]

    def step_until_preemption(self) -> None:
        before = self.scheduler.num_preemptions
        for _ in range(20):
            if self.scheduler.num_preemptions > before:
                break
            self.step()
        assert self.scheduler.num_preemptions == before + 1


@pytest.mark.parametrize(("max_num_seqs", "num_prompt"), [(2, 6), (3, 5), (8, 4)])
def test_decoding_comes_first_and_prompts_leave_room_for_all_that_could_decode(
    max_num_seqs: int, num_prompt: int
) -> None:
    steps = Steps(max_num_seqs=max_num_seqs)
    steps.add("first", (1, 2), 3)
    assert steps.step() == [("first", 0, 2)]
    steps.add("second", range(10, 38))
    assert steps.step() == [("first", 2, 1), ("second", 0, num_prompt)]
    assert steps.step() == [("first", 3, 1), ("second", num_prompt, num_prompt)]
    steps.scheduler.remove(steps.sequences["first"])
    assert steps.step() == [("second", 2 * num_prompt, 8)], "nobody waits for it"


def test_the_last_in_rank_is_preempted_and_comes_back_in_its_place() -> None:
    steps = Steps(num_blocks=7, max_num_batched_tokens=20)
    steps.add("late", (1, 2, 3), 11, priority=1)
    steps.add("soon", (4, 5, 6), 11)
    assert steps.step() == [("soon", 0, 3), ("late", 0, 3)]
    steps.add("newest", range(10, 15), 1, priority=2)
    steps.step_until_preemption()
    assert [sequence.request_id for sequence in steps.scheduler._waiting] == [
        "late",  # although it came before
        "newest",
    ]
    assert steps.sequences["late"].num_computed_tokens == 0


def test_within_a_priority_the_youngest_is_preempted() -> None:
    steps = Steps(num_blocks=7)
    steps.add("old", (1, 2, 3), 11)
    steps.add("young", (4, 5, 6), 11)
    steps.step_until_preemption()
    assert [sequence.request_id for sequence in steps.scheduler._waiting] == ["young"]


def test_better_priorities_are_admitted_first_but_preempt_nobody() -> None:
    steps = Steps(max_num_seqs=1)
    steps.add("running", (1, 2, 3), 2, priority=5)
    steps.step()
    steps.add("normal", (1, 2, 3))
    steps.add("urgent", (1, 2, 3), priority=-1)
    assert steps.step() == [("running", 3, 1)]
    steps.scheduler.remove(steps.sequences["running"])
    assert steps.step()[0][0] == "urgent"


def test_a_request_that_finds_no_room_is_not_passed_by_smaller_ones() -> None:
    steps = Steps(num_blocks=6)
    steps.add("running", (1, 2, 3, 4), 4)
    steps.step()
    steps.add("big", range(10, 19), 1)
    steps.add("small", (20,), 1)
    assert [name for name, *_ in steps.step()] == ["running"]


def test_a_request_waits_a_step_for_the_prefix_that_another_computes() -> None:
    steps = Steps(max_num_batched_tokens=20)
    prompt = tuple(range(10, 17))
    for name in ("a", "b"):
        steps.add(name, prompt)
    steps.add("other", (1, 2))
    assert steps.step() == [("a", 0, 7), ("other", 0, 2)]
    assert steps.step() == [("a", 7, 1), ("other", 2, 1), ("b", 6, 1)]
    assert [steps.sequences[name].num_cached_tokens for name in ("a", "b", "other")] == [0, 6, 0]


def test_requests_of_different_salts_neither_wait_for_each_other_nor_share() -> None:
    steps = Steps(num_blocks=60, max_num_batched_tokens=20)
    for name in ("a", "b"):
        steps.add(name, range(10, 17), 1).cache_salt = name
    assert steps.step() == [("a", 0, 7), ("b", 0, 7)]
    for name in ("a", "b"):
        steps.scheduler.remove(steps.sequences[name])
    steps.add("long", range(100, 140))
    steps.add("unsalted", range(10, 17))
    steps.add("b again", range(10, 17)).cache_salt = "b"
    assert steps.step() == [("long", 0, 12), ("b again", 6, 1), ("unsalted", 0, 7)]


def test_a_preempted_request_finds_what_it_computed_but_does_not_count_it_as_cached() -> None:
    steps = Steps(num_blocks=7, max_num_batched_tokens=20)
    steps.add("old", (1, 2, 3), 11)
    young = steps.add("young", (4, 5, 6), 11)
    steps.step_until_preemption()
    steps.scheduler.remove(steps.sequences["old"])
    ((name, start, _),) = steps.step()
    assert (name, start > 0) == ("young", True)
    assert young.num_cached_tokens == 0


def test_with_one_partial_prefill_prompts_wait_for_each_other() -> None:
    steps = Steps(max_num_partial_prefills=1)
    steps.add("long", range(10, 40))
    steps.add("short", (1, 2))
    assert steps.step() == [("long", 0, 8)]


def test_a_better_priority_takes_the_rest_of_the_step_in_which_a_place_becomes_free() -> None:
    steps = Steps(max_num_partial_prefills=1)
    steps.add("long", range(10, 22))
    steps.step()
    steps.add("better", (1, 2, 3, 4, 5), priority=-1)
    assert steps.step() == [("long", 8, 4), ("better", 0, 4)]


def test_a_short_prompt_shares_the_steps_of_a_long_one_which_gets_the_rest() -> None:
    steps = Steps(max_num_seqs=2)
    steps.add("long", range(10, 40))
    steps.add("short", (1, 2, 3, 4, 5))
    assert steps.step() == [("long", 0, 4), ("short", 0, 4)]
    assert steps.step() == [("long", 4, 7), ("short", 4, 1)]
    assert steps.step() == [("short", 5, 1), ("long", 11, 6)]


def test_a_prompt_that_arrives_later_passes_too_the_shortest_first() -> None:
    steps = Steps()
    steps.add("long", range(100, 130))
    assert steps.step() == [("long", 0, 8)]
    steps.add("middle", range(40, 50))
    assert steps.step() == [("long", 8, 4), ("middle", 0, 4)]
    steps.add("short", (1, 2))
    assert steps.step() == [("long", 12, 4), ("short", 0, 2), ("middle", 4, 2)]


def test_prompts_of_equal_length_come_one_after_the_other() -> None:
    steps = Steps()
    for name in ("first", "second"):
        steps.add(name, range(10 * len(name), 10 * len(name) + 12), 1)
    assert steps.step() == [("first", 0, 8)]
    assert steps.step() == [("first", 8, 4), ("second", 0, 4)]


def test_what_the_prefix_cache_holds_does_not_make_a_prompt_long() -> None:
    steps = Steps(num_blocks=60, max_num_batched_tokens=20)
    conversation = tuple(range(10, 30))
    turn = steps.add("turn", conversation, 1)
    steps.step()
    steps.scheduler.remove(turn)
    steps.add("long", range(100, 140))
    steps.step()
    steps.sequences["long"].token_ids += range(140, 150)
    steps.add("next turn", (*conversation, 7, 8))
    assert steps.step() == [("long", 20, 18), ("next turn", 20, 2)]


def test_a_worse_priority_does_not_share_a_step_and_a_better_one_does_whatever_its_length() -> None:
    steps = Steps(num_blocks=80)
    steps.add("long", range(10, 40))
    assert steps.step() == [("long", 0, 8)]
    steps.add("worse", (1, 2), priority=1)
    assert steps.step() == [("long", 8, 8)]
    steps.add("better", range(50, 90), priority=-1)
    assert steps.step() == [("better", 0, 8)], "it leads now"


def test_a_better_priority_that_finds_no_room_beside_a_long_prompt_is_not_passed() -> None:
    steps = Steps(num_blocks=40)
    steps.add("long", range(100, 160))
    steps.step()
    steps.add("better", range(30), priority=-1)
    steps.add("short", (1, 2))
    assert steps.step() == [("long", 8, 8)]


def test_a_prompt_that_passed_a_long_one_does_not_lead_before_those_that_came_earlier() -> None:
    steps = Steps(num_blocks=80)
    long = steps.add("long", range(100, 140), 1)
    steps.step()
    steps.add("second", range(200, 260))
    steps.add("third", range(300, 331))
    assert steps.step() == [("long", 8, 4), ("third", 0, 4)]
    for number in range(5):
        short = steps.add(f"short {number}", (number, 1, 2, 3), 1)
        assert steps.step() == [("long", 12 + 4 * number, 4), (short.request_id, 0, 4)]
        steps.scheduler.remove(short)
    assert steps.step() == [("long", 32, 8)]
    steps.scheduler.remove(long)
    assert steps.step() == [("second", 0, 4), ("third", 4, 4)]


def test_a_long_queue_is_not_looked_through_when_no_more_prompts_may_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(num_blocks=200, max_num_partial_prefills=2, max_num_waiting=100)
    steps.add("long", range(100, 130))
    steps.step()
    steps.add("middle", range(40, 55))
    steps.step()
    for number in range(20):
        steps.add(f"short {number}", (number, 1, 2))
    looked: list[str] = []
    find = steps.blocks.num_cached_tokens

    def num_cached_tokens(sequence: Sequence) -> int:
        looked.append(sequence.request_id)
        return find(sequence)

    monkeypatch.setattr(steps.blocks, "num_cached_tokens", num_cached_tokens)
    steps.step()
    assert looked == []


def test_no_more_prompts_than_allowed_are_unfinished_at_once() -> None:
    steps = Steps(max_num_partial_prefills=2)
    steps.add("long", range(100, 130))
    steps.step()
    steps.add("middle", range(40, 55))
    steps.step()
    steps.add("short", range(60, 65))
    assert steps.step() == [("long", 12, 4), ("middle", 4, 4)]


def test_no_more_long_prompts_than_allowed_are_unfinished_at_once() -> None:
    steps = Steps(max_long_partial_prefills=1, long_prefill_token_threshold=5)
    steps.add("long", range(100, 130))
    steps.add("long too", range(40, 50))
    steps.add("short", (1, 2, 3, 4, 5))
    assert steps.step() == [("long", 0, 4), ("short", 0, 4)]


def test_a_long_prompt_gets_half_of_its_steps_however_many_pass() -> None:
    steps = Steps(num_blocks=200, max_num_waiting=100)
    long = steps.add("long", range(100, 180))
    for number in range(40):
        steps.add(f"short {number}", (number, 1, 2), 1)
    num_steps = 0
    while not long.num_generated:
        for name, _, count in steps.step():
            if name == "long":
                assert count >= 4 or long.num_generated
        for sequence in steps.sequences.values():
            if sequence.num_generated and sequence is not long and steps.blocks.table(sequence.request_id):
                steps.scheduler.remove(sequence)
        num_steps += 1
    assert num_steps <= 20


def test_a_prompt_whose_logits_are_wanted_takes_few_tokens_a_step_and_holds_up_nobody() -> None:
    steps = Steps(max_num_batched_tokens=20, max_num_seqs=4, max_prompt_logit_rows=3)
    prompt = tuple(range(10, 20))
    steps.add("before", prompt, 1)
    steps.step()
    scored = steps.add("scored", prompt)
    scored.sampling = replace(scored.sampling, prompt_logprobs=0)
    steps.add("scored too", prompt).sampling = scored.sampling
    steps.add("other", range(30, 40))
    plan = steps.scheduler.schedule()
    assert [(chunk.request_id, chunk.start, chunk.num_logit_rows) for chunk in plan.chunks] == [
        ("before", 10, 1),
        ("scored", 0, 3),
        ("other", 0, 1),
    ]


def test_a_full_queue_refuses_and_names_the_limit() -> None:
    steps = Steps(max_num_waiting=1)
    steps.add("a", (1,), 1)
    with pytest.raises(QueueFull, match="max_num_waiting 1"):
        steps.add("b", (1,), 1)


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"16 tokens.* 17 tokens"):
        Steps(num_blocks=8).add("a", (1,), 16)
