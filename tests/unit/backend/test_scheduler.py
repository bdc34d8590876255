"""The scheduler under everything that can happen to requests, with a model that sees every mistake."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ernie_backend.engine.engine import Engine
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.scheduler.limits import SchedulerLimits
from ernie_backend.scheduler.scheduler import Scheduler
from ernie_wire.errors import ContextLengthExceeded, QueueFull
from fakes.sequences import make_sequence
from fakes.token_hash_model import TokenHashRunner, continuation

VOCAB = 50


class EngineMachine(RuleBasedStateMachine):
    """Requests arrive, are cancelled, run and end, in any order, in a cache that is often too small."""

    @initialize(
        max_num_seqs=st.integers(1, 4),
        budget=st.integers(1, 9),
        num_blocks=st.integers(5, 9),
        block_size=st.integers(1, 4),
    )
    def start(self, max_num_seqs: int, budget: int, num_blocks: int, block_size: int) -> None:
        self.budget, self.max_num_seqs = budget, max_num_seqs
        self.capacity = num_blocks * block_size
        self.runner = TokenHashRunner(num_blocks, block_size, VOCAB)
        limits = SchedulerLimits(max_num_seqs, budget, 1000)
        self.engine = Engine(self.runner, BlockManager(num_blocks, block_size), limits, VOCAB)
        self.expected: dict[str, list[int]] = {}
        self.got: dict[str, list[int]] = {}
        self.count = 0

    @rule(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), max_tokens=st.integers(1, 12))
    def arrive(self, prompt: list[int], max_tokens: int) -> None:
        request_id = f"r{self.count}"
        self.count += 1
        refusal = self.engine.submit(make_sequence(request_id, tuple(prompt), max_tokens))
        fits = len(prompt) + max_tokens <= self.capacity
        assert (refusal is None) == fits
        if fits:
            self.expected[request_id] = continuation(prompt, max_tokens, VOCAB)
            self.got[request_id] = []

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.expected:
            return
        request_id = data.draw(st.sampled_from(sorted(self.expected)))
        assert self.engine.cancel(request_id)
        assert not self.engine.cancel(request_id)
        del self.expected[request_id]

    @rule(steps=st.integers(1, 6))
    def run_steps(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        had_work, steps_before = self.engine.has_work, len(self.runner.plans)
        outputs = self.engine.step()
        assert (len(self.runner.plans) > steps_before) == had_work, "a step with work computes something"
        if had_work:
            plan = self.runner.plans[-1]
            assert 1 <= plan.num_tokens <= self.budget
            assert len(plan.chunks) <= self.max_num_seqs
            assert len({chunk.request_id for chunk in plan.chunks}) == len(plan.chunks)
        for output in outputs:
            self.got[output.request_id] += output.token_ids
            assert output.error is None
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


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


def _scheduler(num_blocks: int = 8, max_num_seqs: int = 4, budget: int = 8, waiting: int = 10) -> Scheduler:
    return Scheduler(SchedulerLimits(max_num_seqs, budget, waiting), BlockManager(num_blocks, 2))


def test_decoding_comes_first_and_the_prompt_takes_the_rest() -> None:
    scheduler = _scheduler(num_blocks=20)
    first = make_sequence("first", (1, 2), 4)
    scheduler.add(first)
    scheduler.complete(scheduler.schedule(), {"first": first})
    first.advance(7)
    scheduler.add(make_sequence("second", tuple(range(12)), 2))
    plan = scheduler.schedule()
    assert [(chunk.request_id, len(chunk.token_ids), chunk.is_sampled) for chunk in plan.chunks] == [
        ("first", 1, True),
        ("second", 7, False),
    ]


def test_the_youngest_is_preempted_and_comes_back_before_newer_ones() -> None:
    scheduler = _scheduler(num_blocks=4)
    old, young, newest = (make_sequence(name, (1, 2, 3), 5) for name in ("old", "young", "newest"))
    for arrival, sequence in enumerate((old, young, newest)):
        sequence.arrival = arrival
    scheduler.add(old)
    sequences = {"old": old, "young": young, "newest": newest}
    scheduler.complete(scheduler.schedule(), sequences)
    old.advance(1)
    scheduler._blocks.grow("young", 3)  # past the headroom rule, which makes preemption rare
    young.num_computed_tokens = 3
    young.advance(1)
    scheduler._running.append(young)
    scheduler.add(newest)
    scheduler.complete(scheduler.schedule(), sequences)
    old.advance(1)
    young.advance(1)
    plan = scheduler.schedule()
    assert plan.preempted == ("young",)
    assert [chunk.request_id for chunk in plan.chunks] == ["old"]
    assert [sequence.request_id for sequence in scheduler._waiting] == ["young", "newest"]
    assert young.num_computed_tokens == 0
    scheduler.check_integrity()


def test_a_full_queue_refuses_and_names_the_limit() -> None:
    scheduler = _scheduler(waiting=1)
    scheduler.add(make_sequence("a", (1,), 1))
    with pytest.raises(QueueFull, match="max_num_waiting 1"):
        scheduler.add(make_sequence("b", (1,), 1))


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded, match="17 tokens, the KV cache holds 16"):
        _scheduler().add(make_sequence("a", (1,), 16))
