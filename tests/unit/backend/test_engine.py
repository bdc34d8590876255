"""The engine: what its outputs hold, why answers end, and faults that stay with their request."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.errors import parse_error
from ernie_wire.messages import Output
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation

VOCAB = 10
PROMPT = (1, 2, 3)
ANSWER = continuation(PROMPT, 8, VOCAB)
TEXT = "".join(str(token) for token in ANSWER)


def _engine(num_blocks: int = 40, waiting: int = 10, max_num_seqs: int = 4) -> Engine:
    limits = SchedulerLimits(max_num_seqs, 16, waiting)
    return Engine(
        TokenHashRunner(num_blocks, 2, VOCAB), BlockManager(num_blocks, 2), limits, reference_sampler(VOCAB)
    )


def _finish(engine: Engine, *requests: RequestState) -> list[Output]:
    outputs = [refusal for request in requests if (refusal := engine.submit(request)) is not None]
    while engine.has_work:
        outputs += engine.step()
    return outputs


def test_a_stream_is_one_output_a_token() -> None:
    outputs = _finish(_engine(), make_request("r", PROMPT, 8, prompt_text="123"))
    assert [output.token_ids for output in outputs] == [(token,) for token in ANSWER]
    assert "".join(output.text for output in outputs) == TEXT
    assert [output.finish_reason for output in outputs] == [None] * 7 + ["length"]
    assert {output.num_input_tokens for output in outputs} == {3}
    assert [(output.prompt_ids, output.prompt_text) for output in outputs[:2]] == [
        (PROMPT, "123"),
        (None, None),
    ]


def test_without_stream_there_is_one_output() -> None:
    outputs = _finish(_engine(), make_request("r", PROMPT, 8, stream=False, prompt_text="123"))
    (output,) = outputs
    assert output == Output("r", TEXT, tuple(ANSWER), 3, 0, "length", None, PROMPT, "123", num_output_tokens=8)


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_take_no_step(stream: bool) -> None:
    engine = _engine()
    nothing = make_request("r", PROMPT, 0, stream=stream, prompt_text="123")
    assert engine.submit(nothing) == Output("r", "", (), 3, 0, "length", None, PROMPT, "123")
    assert not engine.has_work
    engine.submit(make_request("r", PROMPT, 1))
    refusal = engine.submit(make_request("r", PROMPT, 0))
    assert refusal is not None
    assert "in flight" in (refusal.error or "")


def test_the_end_of_sequence_token_ends_without_text() -> None:
    eos = ANSWER[4]
    end = ANSWER.index(eos)
    (output,) = _finish(_engine(), make_request("r", PROMPT, 8, eos=frozenset([eos]), stream=False))
    assert (output.text, output.finish_reason) == (TEXT[:end], "stop")
    assert output.token_ids == tuple(ANSWER[: end + 1])


def test_the_end_of_sequence_token_at_max_tokens_is_a_stop() -> None:
    count = ANSWER.index(ANSWER[4]) + 1
    (output,) = _finish(_engine(), make_request("r", PROMPT, count, eos=frozenset([ANSWER[4]]), stream=False))
    assert output.finish_reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_across_tokens_ends_the_answer(stream: bool) -> None:
    stop = TEXT[3:6]
    outputs = _finish(_engine(), make_request("r", PROMPT, 8, stop=(stop,), stream=stream))
    assert "".join(output.text for output in outputs) == TEXT[: TEXT.index(stop)]
    assert outputs[-1].finish_reason == "stop"
    assert sum(len(output.token_ids) for output in outputs) == TEXT.index(stop) + 3


def test_text_held_back_for_a_stop_string_is_flushed_at_the_end() -> None:
    outputs = _finish(_engine(), make_request("r", PROMPT, 8, stop=(TEXT[-2:] + "x",)))
    assert "".join(output.text for output in outputs) == TEXT
    assert outputs[-1].finish_reason == "length"


def test_cancelled_anywhere_its_blocks_are_free_at_once() -> None:
    engine = _engine(max_num_seqs=1)
    engine.submit(make_request("running", PROMPT, 8))
    engine.submit(make_request("waiting", PROMPT, 8))
    engine.step()
    assert engine.heartbeat.free_blocks < engine.heartbeat.total_blocks
    assert engine.cancel("running")
    assert engine.heartbeat.free_blocks == engine.heartbeat.total_blocks
    assert engine.cancel("waiting")
    assert not engine.cancel("waiting")
    assert not engine.has_work
    assert engine.step() == ()


def test_refusals_are_error_outputs_of_their_own_request() -> None:
    engine = _engine(num_blocks=4, waiting=2)
    outputs = _finish(
        engine,
        make_request("big", PROMPT, 100),
        make_request("a", PROMPT, 2),
        make_request("a", PROMPT, 2),
        make_request("b", PROMPT, 2),
        make_request("c", PROMPT, 2),
    )
    refusals = {output.request_id: parse_error(output.error) for output in outputs if output.error}
    assert {name: (error.code, error.param) for name, error in refusals.items() if error} == {
        "big": ("context_length_exceeded", None),
        "a": ("invalid_value", "request_id"),
        "c": ("queue_full", None),
    }
    assert [output.request_id for output in outputs if output.finish_reason] == ["a", "b"]


class _PoisonedRunner(TokenHashRunner):
    """Computes no numbers for the request named poisoned."""

    def logits(self, plan: SchedulePlan) -> NDArray[np.float32]:
        logits = super().logits(plan)
        rows = [chunk for chunk in plan.chunks if chunk.num_sampled]
        for row, chunk in enumerate(rows):
            if chunk.request_id == "poisoned":
                logits[row] = np.nan
        return logits


def test_logits_that_are_no_numbers_fail_one_request() -> None:
    engine = Engine(
        _PoisonedRunner(40, 2, VOCAB), BlockManager(40, 2), SchedulerLimits(4, 16, 9), reference_sampler(VOCAB)
    )
    outputs = _finish(
        engine,
        make_request("good", PROMPT, 8, stream=False),
        make_request("poisoned", PROMPT, 8),
        make_request("fine", PROMPT, 8, stream=False),
    )
    assert outputs[0].request_id == "poisoned"
    assert outputs[0].error is not None
    assert outputs[0].error.startswith("internal_error: ")
    assert [(output.request_id, output.text) for output in outputs[1:]] == [("good", TEXT), ("fine", TEXT)]
    assert engine.heartbeat.free_blocks == 40


def test_a_request_that_cannot_be_sampled_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    engine = _engine()
    bad = make_request("bad", PROMPT, 8)
    bad.sequence.sampling = replace(bad.sequence.sampling, filters=SamplingFilters(10**400), logprobs=0)
    outputs = _finish(engine, make_request("good", PROMPT, 8, stream=False), bad)
    assert outputs[0].request_id == "bad"
    assert str(outputs[0].error).startswith("internal_error: ")
    assert [(output.request_id, output.text) for output in outputs[1:]] == [("good", TEXT)]
    assert "OverflowError" in caplog.text


def test_what_a_failed_request_computed_is_not_found_by_others() -> None:
    engine = Engine(
        _PoisonedRunner(40, 2, VOCAB), BlockManager(40, 2), SchedulerLimits(4, 16, 9), reference_sampler(VOCAB)
    )
    _finish(engine, make_request("poisoned", tuple(range(9)), 8))
    (output,) = _finish(engine, make_request("good", tuple(range(9)), 8, stream=False))
    assert output.num_cached_tokens == 0
    assert output.token_ids == tuple(continuation(range(9), 8, VOCAB))


def test_every_output_tells_how_much_of_the_prompt_was_cached() -> None:
    engine = _engine()
    assert {output.num_cached_tokens for output in _finish(engine, make_request("a", PROMPT, 8))} == {0}
    assert {output.num_cached_tokens for output in _finish(engine, make_request("b", PROMPT, 8))} == {2}
    follow_up = (*PROMPT, *ANSWER, 1)
    assert {each.num_cached_tokens for each in _finish(engine, make_request("c", follow_up, 2))} == {10}
    beat = engine.heartbeat
    assert (beat.prefix_cache_queries, beat.prefix_cache_hits, beat.preemptions) == (3 + 3 + 12, 12, 0)


def test_a_request_that_waited_too_long_gets_a_timeout() -> None:
    now_s = [0.0]
    limits = SchedulerLimits(1, 16, 9, max_waiting_time=5.0)
    engine = Engine(
        TokenHashRunner(40, 2, VOCAB),
        BlockManager(40, 2),
        limits,
        reference_sampler(VOCAB),
        clock=lambda: now_s[0],
    )
    engine.submit(make_request("running", PROMPT, 8))
    engine.submit(make_request("waiting", PROMPT, 8))
    assert [output.request_id for output in engine.step()] == ["running"]
    now_s[0] = 6.0
    outputs = engine.step()
    assert [output.request_id for output in outputs] == ["waiting", "running"]
    assert re.match("timeout: .*max_waiting_time", str(outputs[0].error))
    assert engine.heartbeat.waiting == 0
    assert not engine.cancel("waiting")


def test_the_last_request_may_expire_too() -> None:
    now_s = [0.0]
    limits = SchedulerLimits(1, 16, 9, max_waiting_time=5.0)
    runner = TokenHashRunner(40, 2, VOCAB)
    engine = Engine(runner, BlockManager(40, 2), limits, reference_sampler(VOCAB), clock=lambda: now_s[0])
    engine.submit(make_request("late", PROMPT, 8))
    now_s[0] = 6.0
    assert [output.is_last for output in engine.step()] == [True]
    assert not engine.has_work
    assert not runner.plans


def test_better_priorities_are_served_first() -> None:
    engine = _engine(max_num_seqs=1)
    outputs = _finish(
        engine,
        *(make_request(str(priority), PROMPT, 2, stream=False, priority=priority) for priority in (3, 0, -2)),
    )
    assert [output.request_id for output in outputs] == ["-2", "0", "3"]
