"""Drafts of the next tokens: they never change an answer, and those that are right save steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.runner.logits_processors import BadWords, MinTokens, Penalties
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.messages import Output, join_outputs
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import TokenHashRunner

VOCAB = 10
PROMPT = (1, 2, 3)
LENGTH = 24

Propose = Callable[[list[int]], list[int]]
"""Returns guesses of what follows the tokens of an answer."""


def _greedy() -> RequestState:
    return make_request("r", PROMPT, LENGTH, stream=False)


def _random() -> RequestState:
    request = _greedy()
    filters = SamplingFilters(1.5, top_k=7)
    request.sequence.sampling = replace(request.sequence.sampling, filters=filters, seed=5, logprobs=2)
    return request


def _seeded() -> RequestState:
    """Random, and its tokens are chosen by the backend."""
    request = _random()
    request.sequence.sampling = replace(request.sequence.sampling, logprobs=None)
    return request


def _processed() -> RequestState:
    """Greedy, but for what it has said before: a draft that is right is one that penalties allow."""
    request = _random()
    request.sequence.processors = (
        Penalties(PROMPT, repetition=1.4, frequency=0.3, presence=0.2),
        BadWords([(1, 2), (7,)]),
        MinTokens(5, (4,)),
    )
    sampling = replace(request.sequence.sampling, min_tokens=5, eos_token_ids=frozenset([4]))
    request.sequence.sampling = sampling
    return request


def _answer(request: RequestState, propose: Propose) -> tuple[Output, int]:
    """Return the whole answer and how many steps it took."""
    runner = TokenHashRunner(40, 2, VOCAB)
    engine = Engine(runner, BlockManager(40, 2), SchedulerLimits(4, 16, 9), reference_sampler(VOCAB))
    assert engine.submit(request) is None
    outputs: list[Output] = []
    while engine.has_work:
        sequence = request.sequence
        sequence.draft_ids = tuple(propose(sequence.token_ids[len(PROMPT) :]))
        outputs += engine.step()
        engine.check_integrity()
    assert engine.heartbeat.free_blocks == 40
    ends = [chunk.start + len(chunk.token_ids) for plan in runner.plans for chunk in plan.chunks]
    assert max(ends) < len(PROMPT) + LENGTH, "no draft is computed beyond what the request may have"
    return join_outputs(outputs), engine.heartbeat.steps


@pytest.mark.parametrize("make", [_greedy, _random, _seeded, _processed])
def test_the_answer_does_not_depend_on_drafts(make: Callable[[], RequestState]) -> None:
    plain, num_steps = _answer(make(), lambda _: [])
    known = list(plain.token_ids)
    assert num_steps == len(known)
    right, few = _answer(make(), lambda answer: [*known, 0, 0, 0][len(answer) :][:3])
    assert right == plain
    # The prompt's step makes one token, each of the others up to four.
    assert few == 1 + -(-(len(known) - 1) // 4)
    wrong = [(token + 1) % VOCAB for token in known]
    assert _answer(make(), lambda answer: wrong[len(answer) :][:2]) == (plain, len(known))
    mixed = [wrong[index] if index % 3 == 0 else token for index, token in enumerate(known)]
    assert _answer(make(), lambda answer: mixed[len(answer) :][:4]) == (plain, 1 + -(-(len(known) - 1) // 3))


def test_a_stream_sends_the_tokens_of_a_step_together() -> None:
    plain, _ = _answer(_greedy(), lambda _: [])
    request = make_request("r", PROMPT, LENGTH, stop=(plain.text[6:9],))
    engine = Engine(
        TokenHashRunner(40, 2, VOCAB), BlockManager(40, 2), SchedulerLimits(4, 16, 9), reference_sampler(VOCAB)
    )
    engine.submit(request)
    sent: list[tuple[int, ...]] = []
    while engine.has_work:
        begun = request.sequence.num_generated
        request.sequence.draft_ids = plain.token_ids[begun : begun + 4]
        sent += [output.token_ids for output in engine.step()]
    assert [len(each) for each in sent] == [1, 5, 3], "what follows the stop text is not part of the answer"


def test_drafts_take_what_others_leave_of_the_budget_and_of_the_blocks() -> None:
    limits = SchedulerLimits(4, 5, 9)
    runner = TokenHashRunner(9, 2, VOCAB)
    engine = Engine(runner, BlockManager(9, 2), limits, reference_sampler(VOCAB))
    requests = [make_request(name, (number,), 5) for number, name in enumerate("abc")]
    for request in requests:
        engine.submit(request)
    engine.step()
    for request in requests:
        request.sequence.draft_ids = (7, 7, 7)
    engine.step()
    assert runner.plans[-1].num_tokens == 5
    assert [request.sequence.num_generated for request in requests] == [2, 2, 2]
    assert engine.heartbeat.preemptions == 0
