"""Log probabilities of prompts, however the prompt is cut, preempted or cached, and in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.runner.logprobs import scored_token
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.messages import Output
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation, next_token

VOCAB = 10
PROMPT = tuple(np.random.default_rng(1).integers(0, VOCAB, 21).tolist())


def _asking(request_id: str, prompt: tuple[int, ...] = PROMPT, max_tokens: int = 4) -> RequestState:
    request = make_request(request_id, prompt, max_tokens)
    request.sequence.sampling = replace(request.sequence.sampling, prompt_logprobs=2)
    return request


def _engine(num_blocks: int = 40, budget: int = 16, rows: int = 64) -> tuple[Engine, TokenHashRunner]:
    runner = TokenHashRunner(num_blocks, 2, VOCAB)
    limits = SchedulerLimits(4, budget, 9, max_prompt_logit_rows=rows)
    return Engine(runner, BlockManager(num_blocks, 2), limits, reference_sampler(VOCAB)), runner


def _run(engine: Engine, *requests: RequestState) -> dict[str, list[Output]]:
    outputs: dict[str, list[Output]] = {}
    for request in requests:
        assert engine.submit(request) is None
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check_integrity()
    return outputs


def _check(outputs: list[Output], prompt: tuple[int, ...] = PROMPT) -> None:
    entries = outputs[0].prompt_logprobs
    assert entries is not None
    assert entries[0] is None
    assert len(entries) == len(prompt)
    for position, entry in enumerate(entries[1:], 1):
        logits = np.zeros(VOCAB, np.float32)
        logits[next_token(prompt[:position], VOCAB)] = 1
        expected = scored_token(logits, prompt[position], 2, is_logprob=True)
        assert entry is not None
        assert (entry.token_id, entry.rank) == (prompt[position], expected.rank)
        assert entry.logprob == expected.value
        assert [(each.token_id, each.logprob) for each in entry.top] == list(expected.top)
    assert all(output.prompt_logprobs is None for output in outputs[1:])
    assert [token for output in outputs for token in output.token_ids] == continuation(prompt, 4, VOCAB)


@pytest.mark.parametrize(("budget", "rows"), [(64, 64), (64, 1), (5, 64), (7, 3), (1, 1)])
def test_every_way_of_cutting_gives_the_same(budget: int, rows: int) -> None:
    engine, runner = _engine(budget=budget, rows=rows)
    _check(_run(engine, _asking("r"))["r"])
    for plan in runner.plans:
        assert sum(len(chunk.token_ids) for chunk in plan.chunks if chunk.needs_all_logits) <= rows


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_without_an_answer(stream: bool) -> None:
    engine, _ = _engine(budget=4)
    request = make_request("r", PROMPT, 0, stream=stream)
    request.sequence.sampling = replace(request.sequence.sampling, prompt_logprobs=2)
    (output,) = _run(engine, request)["r"]
    assert (output.text, output.token_ids, output.num_output_tokens, output.finish_reason) == (
        "",
        (),
        0,
        "length",
    )
    assert output.prompt_logprobs == _run(engine, _asking("s"))["s"][0].prompt_logprobs


def test_a_prompt_of_one_token_has_nothing_to_compute() -> None:
    engine, runner = _engine()
    _check(_run(engine, _asking("r", (5,)))["r"], (5,))
    assert not any(chunk.needs_all_logits for plan in runner.plans for chunk in plan.chunks)


def test_the_prefix_cache_spares_nothing_of_it_and_gets_it() -> None:
    engine, _ = _engine()
    _run(engine, make_request("before", PROMPT, 4))
    outputs = _run(engine, _asking("r"))["r"]
    _check(outputs)
    assert outputs[0].num_cached_tokens == 0
    assert _run(engine, make_request("after", PROMPT, 4))["after"][0].num_cached_tokens == 20


def test_many_at_once_share_the_rows_and_do_not_hold_up_others() -> None:
    engine, runner = _engine(budget=32, rows=4)
    others = make_request("other", (9, 8, 7), 4)
    outputs = _run(engine, _asking("a"), _asking("b"), others)
    _check(outputs["a"])
    _check(outputs["b"])
    assert [token for output in outputs["other"] for token in output.token_ids] == continuation(
        (9, 8, 7), 4, VOCAB
    )
    for plan in runner.plans:
        assert sum(len(chunk.token_ids) for chunk in plan.chunks if chunk.needs_all_logits) <= 4


def test_preempted_it_is_scored_once() -> None:
    engine, _ = _engine(num_blocks=14, budget=8, rows=3)
    old = make_request("old", (1, 2), 20)
    outputs = _run(engine, old, _asking("young"))
    _check(outputs["young"])
    assert [token for output in outputs["old"] for token in output.token_ids] == continuation((1, 2), 20, VOCAB)
    assert engine.heartbeat.preemptions > 0
