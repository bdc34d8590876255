"""Why and where answers end: stop tokens, stop texts, min_tokens, and log probabilities beside them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.engine.stop import StopMatcher
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.runner.logits_processors import MinTokens
from ernie_backend.runner.sampler import SampledToken
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.messages import Output
from ernie_wire.repetition import RepetitionDetection
from fakes.sequences import CharacterTokens, make_request, make_sequence, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation

VOCAB = 10
PROMPT = (1, 2, 3)
ANSWER = continuation(PROMPT, 8, VOCAB)
TEXT = "".join(str(token) for token in ANSWER)
LATE = next(index for index in range(3, 8) if ANSWER[index] not in ANSWER[:index])


def _run(request: RequestState) -> list[Output]:
    limits = SchedulerLimits(4, 16, 9)
    engine = Engine(TokenHashRunner(400, 2, VOCAB), BlockManager(400, 2), limits, reference_sampler(VOCAB))
    assert engine.submit(request) is None
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def _request(
    *,
    stop: tuple[str, ...] = (),
    stop_ids: tuple[int, ...] = (),
    min_tokens: int = 0,
    includes_stop: bool = False,
    logprobs: int | None = None,
    eos: frozenset[int] = frozenset(),
    max_tokens: int = 8,
    stream: bool = True,
) -> RequestState:
    request = make_request(
        "r", PROMPT, max_tokens, stop=stop, includes_stop=includes_stop, eos=eos, stream=stream
    )
    sequence = request.sequence
    sequence.processors = (MinTokens(min_tokens, (*stop_ids, *eos)),)
    sequence.sampling = replace(
        sequence.sampling,
        stop_token_ids=frozenset(stop_ids),
        min_tokens=min_tokens,
        includes_stop=includes_stop,
        logprobs=logprobs,
    )
    return request


def _text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def _ids(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


@pytest.mark.parametrize("includes_stop", [False, True])
def test_a_stop_token_ends_the_answer_and_its_text_is_part_of_it_if_asked(includes_stop: bool) -> None:
    outputs = _run(_request(stop_ids=(ANSWER[LATE],), includes_stop=includes_stop))
    assert _ids(outputs) == ANSWER[: LATE + 1]
    assert _text(outputs) == TEXT[: LATE + includes_stop]
    assert outputs[-1].finish_reason == "stop"


@pytest.mark.parametrize("includes_stop", [False, True])
def test_so_does_the_end_of_sequence_token(includes_stop: bool) -> None:
    outputs = _run(_request(eos=frozenset([ANSWER[LATE]]), includes_stop=includes_stop))
    assert _ids(outputs) == ANSWER[: LATE + 1]
    assert _text(outputs) == TEXT[: LATE + includes_stop]


@pytest.mark.parametrize("includes_stop", [False, True])
def test_a_stop_text_is_part_of_the_answer_if_asked(includes_stop: bool) -> None:
    stop = TEXT[3:6]
    begin = TEXT.index(stop)
    outputs = _run(_request(stop=(stop,), includes_stop=includes_stop))
    assert _text(outputs) == TEXT[: begin + (3 if includes_stop else 0)]
    assert outputs[-1].finish_reason == "stop"


LOOP = RepetitionDetection(max_pattern_size=3, min_count=4)


@pytest.mark.parametrize(
    ("answer", "min_tokens", "end", "reason", "cause"),
    [
        ("9" + "12" * 8, 0, 9, "length", "repetition_detected"),
        ("9" + "12" * 8, 12, 12, "length", "repetition_detected"),
        ("7" * 4, 0, 4, "length", None),  # max_tokens, which came at the same token, is the reason
        ("7" * 3 + "8" * 3, 0, 6, "length", None),
        ("7777", 0, 3, "stop", None),  # a stop text ends the answer first
    ],
)
def test_a_loop_ends_the_answer_and_says_so(
    answer: str, min_tokens: int, end: int, reason: str, cause: str | None
) -> None:
    sequence = make_sequence("r", PROMPT, min(len(answer), 16))
    sequence.sampling = replace(sequence.sampling, repetition=LOOP, min_tokens=min_tokens)
    stop = StopMatcher(("777",) if reason == "stop" else ())
    request = RequestState(sequence, Detokenizer(CharacterTokens()), stop)
    outputs = [request.advance([SampledToken(int(each))]) for each in answer[:end]]
    assert [output.finish_reason for output in outputs if output] == [*[None] * (end - 1), reason]
    last = outputs[-1]
    assert last is not None
    assert last.stop_reason == cause


def test_before_min_tokens_no_ending_token_is_sampled() -> None:
    ending = ANSWER[0]
    for min_tokens in range(1, 8):
        outputs = _run(_request(eos=frozenset([ending]), min_tokens=min_tokens))
        ids = _ids(outputs)
        assert len(ids) >= min_tokens
        assert ending not in ids[:min_tokens]
        assert outputs[-1].finish_reason == ("stop" if ids[-1] == ending else "length")


def test_before_min_tokens_no_stop_text_counts() -> None:
    first, last = TEXT[0], TEXT[5]
    assert _text(_run(_request(stop=(first,)))) == ""
    outputs = _run(_request(stop=(first,), min_tokens=8))
    assert (_text(outputs), outputs[-1].finish_reason) == (TEXT, "length")
    end = TEXT.index(last, 3)
    assert _text(_run(_request(stop=(last,), min_tokens=3))) == TEXT[:end]


def test_a_stop_text_that_begins_before_min_tokens_and_ends_after_counts() -> None:
    assert _text(_run(_request(stop=(TEXT[2:5],), min_tokens=4))) == TEXT[:2]
    assert _text(_run(_request(stop=(TEXT[2:5],), min_tokens=5))) == TEXT


@pytest.mark.parametrize(
    "request_",
    [
        _request(logprobs=2),
        _request(logprobs=0, stop=(TEXT[3:6],)),
        _request(logprobs=1, stop_ids=(ANSWER[LATE],)),
        _request(logprobs=1, eos=frozenset([ANSWER[LATE]])),
    ],
)
def test_there_is_an_entry_for_every_token_id(request_: RequestState) -> None:
    num_top = request_.sequence.sampling.logprobs
    outputs = _run(request_)
    for output in outputs:
        entries = output.logprobs or ()
        assert tuple(entry.token_id for entry in entries if entry) == output.token_ids
        for entry in entries:
            assert entry is not None
            assert entry.text_bytes == str(entry.token_id).encode()
            assert (entry.rank, len(entry.top)) == (1, num_top)
            assert entry.logprob == pytest.approx(1 - math.log(math.e + 9), abs=1e-5)
            assert not entry.top or entry.top[0].token_id == entry.token_id
    assert _ids(outputs)


def test_without_stream_many_log_probabilities_go_in_parts() -> None:
    outputs = _run(_request(logprobs=1, max_tokens=600, stream=False))
    assert [len(output.logprobs or ()) for output in outputs] == [256, 256, 88]
    assert _ids(outputs) == continuation(PROMPT, 600, VOCAB)
    assert [output.finish_reason for output in outputs] == [None, None, "length"]


def test_without_asking_there_are_none() -> None:
    assert {output.logprobs for output in _run(_request())} == {None}
