"""Token masks in the engine: what they exclude, how they end answers, and whose faults are whose."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.logits_processors import AllowedTokens, BadWords, LogitBias, MinTokens, Penalties
from ernie_backend.runner.sampler import Sampler
from ernie_backend.runner.sampling_rows import SamplingRow, fill_masks
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.cpu import CpuOps
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.errors import InvalidValue, parse_error
from ernie_wire.messages import Output, join_outputs
from fakes.sequences import make_request
from fakes.token_hash_model import TokenHashRunner, next_token

VOCAB = 37
PADDED = 41
PROMPT = (1, 2, 3)
EOS = 36
LENGTH = 12

Answer = tuple[int, ...]
Grammar = Callable[[Answer], set[int]]
"""Returns the tokens that may follow an answer; none: it is complete."""


class ScriptedMask:
    """A mask made of a grammar, which checks that it is used as ``TokenMask`` says."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self.answer: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow."""
        return not self._grammar(tuple(self.answer))

    def fill(self, mask: NDArray[np.uint32]) -> None:
        """Write the bits, over whatever is there."""
        assert not self.is_complete
        assert mask.shape == (2,), "37 tokens"
        bits = sum(1 << token for token in self._grammar(tuple(self.answer)))
        mask[:] = (bits & 0xFFFFFFFF, bits >> 32)

    def accept(self, token_id: int) -> None:
        """Take a token that is allowed."""
        assert token_id in self._grammar(tuple(self.answer))
        self.answer.append(token_id)

    def rollback(self, num_tokens: int) -> None:
        """Forget tokens."""
        assert 0 < num_tokens <= len(self.answer)
        del self.answer[len(self.answer) - num_tokens :]


def _everything(_answer: Answer) -> set[int]:
    return set(range(VOCAB))


def _digits(answer: Answer) -> set[int]:
    """Up to ten digits that rise or fall by less than 5; it may end after the fourth."""
    if len(answer) == 10 or EOS in answer:
        return set()
    near = {token for token in range(10) if not answer or abs(token - answer[-1]) < 5}
    return near | ({EOS} if len(answer) > 3 else set())


def _rising(answer: Answer) -> set[int]:
    """Five rising tokens, and no end-of-sequence token."""
    return set(range(answer[-1] + 1 if answer else 0, 32 + len(answer))) if len(answer) < 5 else set()


def _request(name: str, grammar: Grammar | None, length: int = LENGTH, **arguments: object) -> RequestState:
    request = make_request(name, PROMPT, length, **{"stream": False, **arguments})  # type: ignore[arg-type]
    if grammar is not None:
        request.sequence.token_mask = ScriptedMask(grammar)
    return request


def _sampled(request: RequestState, logprobs: int | None = None) -> RequestState:
    """Make it random."""
    filters = SamplingFilters(1.5, top_k=9)
    request.sequence.sampling = replace(request.sequence.sampling, filters=filters, seed=5, logprobs=logprobs)
    return request


class _PaddedRunner(TokenHashRunner):
    """Its logits are for more tokens than the tokenizer has, and those are the likeliest."""

    def logits(self, plan: SchedulePlan) -> NDArray[np.float32]:
        logits = super().logits(plan)
        return np.pad(logits, ((0, 0), (0, PADDED - VOCAB)), constant_values=9)


def _engine(
    num_blocks: int = 60, runner: type[TokenHashRunner] = _PaddedRunner, mode: str = "raw_logprobs"
) -> Engine:
    sampler = Sampler(CpuOps(2), VOCAB, mode)
    return Engine(runner(num_blocks, 2, VOCAB), BlockManager(num_blocks, 2), SchedulerLimits(6, 24, 9), sampler)


def _answers(engine: Engine, *requests: RequestState) -> dict[str, Output]:
    outputs = [refusal for request in requests if (refusal := engine.submit(request)) is not None]
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    assert engine.heartbeat.free_blocks == engine.heartbeat.total_blocks
    names = [request.request_id for request in requests]
    return {name: join_outputs([output for output in outputs if output.request_id == name]) for name in names}


def _greedy_answer(grammar: Grammar) -> Answer:
    """The likeliest answer by hand: the model's token where it may come, else the first that may."""
    answer: Answer = ()
    while len(answer) < LENGTH and EOS not in answer and (allowed := grammar(answer)):
        likeliest = next_token(PROMPT + answer, VOCAB)
        answer += (likeliest if likeliest in allowed else min(allowed),)
    return answer


@pytest.mark.parametrize("grammar", [_everything, _digits, _rising])
def test_the_likeliest_token_that_may_come_is_chosen(grammar: Grammar) -> None:
    output = _answers(_engine(), _request("r", grammar, eos=frozenset([EOS])))["r"]
    assert output.token_ids == _greedy_answer(grammar)
    assert output.finish_reason == ("length" if grammar is _everything else "stop")


@pytest.mark.parametrize("logprobs", [None, 3])
@pytest.mark.parametrize("has_processors", [False, True])
def test_a_mask_that_allows_everything_changes_nothing(has_processors: bool, logprobs: int | None) -> None:
    answers = []
    for grammar in (None, _everything):
        request = _sampled(_request("r", grammar), logprobs)
        if has_processors:
            request.sequence.processors = (LogitBias({4: 2.0}), Penalties(PROMPT, repetition=1.4))
        answers.append(_answers(_engine(), request)["r"])
    assert answers[0] == answers[1]


def test_rows_with_and_without_masks_do_not_see_each_other() -> None:
    def requests() -> list[RequestState]:
        grammars = (_digits, None, _rising, None, _everything, _digits)
        return [_sampled(_request(f"r{index}", each), index % 3 or None) for index, each in enumerate(grammars)]

    together = _answers(_engine(), *requests())
    for request in requests():
        alone = _answers(_engine(), request)[request.request_id]
        assert alone == replace(together[request.request_id], num_cached_tokens=0)


def test_after_preemption_the_mask_goes_on_where_it_was() -> None:
    def requests() -> list[RequestState]:
        return [_sampled(_request(name, _everything if name == "b" else _digits)) for name in "abc"]

    engine = _engine(num_blocks=13)
    tight = _answers(engine, *requests())
    assert engine.heartbeat.preemptions > 0
    assert tight == {**_answers(_engine(), *requests())}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("grammar", [_digits, _rising])
def test_the_answer_does_not_depend_on_drafts(grammar: Grammar, seed: int) -> None:
    """Drafts that are right, that are wrong, that the grammar excludes, and beyond the end of the answer."""

    def request() -> RequestState:
        made = _sampled(_request("r", grammar, eos=frozenset([EOS])), logprobs=1)
        made.sequence.processors = (BadWords([(1, 2), (7,)]),)
        return made

    plain = _answers(_engine(), request())["r"]
    engine, drafted, outputs = _engine(), request(), list[Output]()
    chance = random.Random(seed)
    engine.submit(drafted)
    while engine.has_work:
        sequence = drafted.sequence
        follows = (*plain.token_ids, EOS, 1)[sequence.num_generated :]
        sequence.draft_ids = tuple(
            token if chance.random() < 0.7 else chance.randrange(PADDED) for token in follows[:4]
        )
        outputs += engine.step()
        mask = sequence.token_mask
        assert isinstance(mask, ScriptedMask)
        assert mask.answer == sequence.token_ids[len(PROMPT) :], "rejected drafts leave no trace"
    assert join_outputs(outputs) == plain
    assert engine.heartbeat.steps < len(plain.token_ids)


def test_a_complete_answer_ends_with_the_token_that_completes_it() -> None:
    """No end-of-sequence token is needed: some requests exclude it."""

    def least(request: RequestState, min_tokens: int) -> RequestState:
        request.sequence.processors = (MinTokens(min_tokens, [EOS]),)
        request.sequence.sampling = replace(request.sequence.sampling, min_tokens=min_tokens)
        return request

    held = "".join(chr(48 + token) for token in _greedy_answer(_rising)[-2:])
    requests = [
        _request("ignore_eos", _rising),
        least(_request("min_tokens", _rising, eos=frozenset([EOS])), 9),
        _request("at max_tokens", _rising, length=5),
        _request("held back", _rising, stop=(held + "x",)),
        _request("cut", _rising, length=4),
    ]
    answers = _answers(_engine(), *requests)
    cut = answers.pop("cut")
    assert (cut.finish_reason, cut.num_output_tokens) == ("length", 4)
    for output in answers.values():
        assert (output.token_ids, output.finish_reason) == (_greedy_answer(_rising), "stop")
        assert output.text == "".join(chr(48 + token) for token in output.token_ids)


def test_the_end_of_sequence_token_comes_where_the_grammar_may_end() -> None:
    eager = _request("r", _digits, eos=frozenset([EOS]))
    eager.sequence.processors = (LogitBias({EOS: 50.0}),)
    output = _answers(_engine(), eager)["r"]
    assert (output.num_output_tokens, output.token_ids[-1], output.finish_reason) == (5, EOS, "stop")
    assert len(output.text) == 4


@pytest.mark.parametrize(
    ("processors", "names"),
    [
        ((AllowedTokens([0, 1, 2]),), ["allowed_token_ids"]),
        ((BadWords([(token,) for token in range(5, 37)]),), ["bad_words"]),
        (
            (Penalties(PROMPT, presence=2.0), AllowedTokens([1, 9]), BadWords([(9,)])),
            ["allowed_token_ids", "bad_words"],
        ),
    ],
)
def test_a_request_of_which_no_token_is_left_gets_the_reason(
    processors: tuple[object, ...], names: list[str]
) -> None:
    def large_after_two(answer: Answer) -> set[int]:
        return {0, 1, 2, 3} if len(answer) < 2 else {20, 30}

    stuck = _request("stuck", large_after_two)
    stuck.sequence.processors = processors  # type: ignore[assignment]
    answers = _answers(_engine(), _request("before", _digits), stuck, _request("after", None))
    error = parse_error(str(answers["stuck"].error))
    assert isinstance(error, InvalidValue)
    assert error.param == names[0]
    assert all(name in error.message for name in (*names, "after 2 tokens", "grammar"))
    assert [answers[name].finish_reason for name in ("before", "after")] == ["stop", "length"]


def test_an_answer_that_no_token_can_spell_is_the_clients_error() -> None:
    unspellable = _request("r", lambda _: {40})
    error = parse_error(str(_answers(_engine(), unspellable)["r"].error))
    assert isinstance(error, InvalidValue)
    assert "no token of this model" in error.message


class _Failing(ScriptedMask):
    """Fails in one of its methods, after two tokens."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__(_everything)
        self._method, self._error = method, error

    def fill(self, mask: NDArray[np.uint32]) -> None:
        """Fail, or fill."""
        if self._method == "fill" and len(self.answer) == 2:
            raise self._error
        super().fill(mask)

    def accept(self, token_id: int) -> None:
        """Fail, or accept."""
        if self._method == "accept" and len(self.answer) == 2:
            raise self._error
        super().accept(token_id)


@pytest.mark.parametrize("method", ["fill", "accept"])
@pytest.mark.parametrize("error", [RuntimeError("lexer"), InvalidValue("too deep", "structured_outputs")])
def test_a_mask_that_fails_ends_its_own_request(
    method: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bad = _request("bad", None)
    bad.sequence.token_mask = _Failing(method, error)
    answers = _answers(_engine(), _request("good", _digits), bad, _request("plain", None))
    seen = parse_error(str(answers["bad"].error))
    if isinstance(error, InvalidValue):
        assert isinstance(seen, InvalidValue)
        assert (seen.message, seen.param) == ("too deep", "structured_outputs")
        assert not caplog.records
    else:
        assert str(answers["bad"].error).startswith("internal_error: ")
        assert "lexer" in caplog.text
    for name, grammar in (("good", _digits), ("plain", _everything)):
        assert answers[name].token_ids == _greedy_answer(grammar)


def test_a_grammar_that_takes_too_long_ends_its_own_request() -> None:
    """Each mask takes 62.5 ms by this clock: 57.5 ms more than a token may, and 0.5 s is free."""
    slow, quick = _request("slow", _everything, length=50), _request("quick", None)
    now_s = count(step=0.0625)
    rows = [SamplingRow(slow.sequence), SamplingRow(quick.sequence)]
    while not rows[0].error:
        slow.sequence.append(0)
        fill_masks(rows, VOCAB, clock=lambda: next(now_s))
    assert slow.sequence.num_generated == 9
    assert isinstance(rows[0].error, InvalidValue)
    assert re.search(r"0\.6 s .* 9 tokens; allowed are 0.5 s and 5 ms", rows[0].error.message)
    assert rows[1].error is None


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logits"])
def test_log_probabilities_are_those_before_or_after_the_mask(mode: str) -> None:
    with_scores = _sampled(_request("r", _rising), logprobs=VOCAB)
    scored = _answers(_engine(mode=mode), with_scores)["r"].logprobs
    assert scored is not None
    assert scored[0] is not None
    values = {top.token_id: top.logprob for top in scored[0].top}
    likeliest = next_token(PROMPT, VOCAB)
    if mode == "raw_logprobs":
        assert all(value < values[likeliest] for token, value in values.items() if token != likeliest)
        assert len({value for token, value in values.items() if token != likeliest}) == 1
    else:
        assert {token for token, value in values.items() if value > -100} <= set(range(32))


def test_masks_are_filled_while_the_model_computes() -> None:
    is_filled = threading.Event()

    class Noting(ScriptedMask):
        def fill(self, mask: NDArray[np.uint32]) -> None:
            super().fill(mask)
            is_filled.set()

    class Waiting(TokenHashRunner):
        def logits(self, plan: SchedulePlan) -> NDArray[np.float32]:
            assert is_filled.wait(30), "the mask is filled only after the model has computed"
            is_filled.clear()
            return super().logits(plan)

    request = _request("r", None)
    request.sequence.token_mask = Noting(_digits)
    assert _answers(_engine(runner=Waiting), request)["r"].token_ids == _greedy_answer(_digits)


def test_a_processor_that_fails_after_drafts_is_as_before() -> None:
    class Failing(Penalties):
        def apply(self, logits: NDArray[np.float32]) -> None:
            if self._answer[-1:] == [8]:
                raise RuntimeError("cannot be applied")
            super().apply(logits)

    plain = _request("r", None)
    plain.sequence.processors = (Penalties(PROMPT, repetition=1.4),)
    expected = _answers(_engine(), plain)["r"]
    assert 8 not in expected.token_ids
    drafted = _request("r", None)
    drafted.sequence.processors = (Failing(PROMPT, repetition=1.4),)
    engine, outputs = _engine(), list[Output]()
    engine.submit(drafted)
    while engine.has_work:
        drafted.sequence.draft_ids = (8, 9)
        outputs += engine.step()
    assert join_outputs(outputs) == expected
