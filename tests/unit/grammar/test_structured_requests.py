"""Requests for structured output, from the wire through compile threads, engine and detokenizer."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.engine.request_state import RequestState
from ernie_backend.grammar.compiler import NICENESS, GrammarCompiler
from ernie_backend.grammar.parts import Grammar, SpecialTokens
from ernie_backend.grammar.sources import structured_grammar
from ernie_backend.grammar.trial import Trial
from ernie_backend.grammar.vocabulary import vocabulary
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.sampling import TokenMask
from ernie_backend.service.engine_loop import Inbox
from ernie_backend.service.input_thread import InputThread
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import Cancel, GenerateRequest, Output, join_outputs
from ernie_wire.sampling import SamplingParameters
from fakes.sequences import reference_sampler
from fakes.token_hash_model import NoiseRunner
from support.grammar_walks import allowed
from support.paths import DENSE
from support.thinking_model import load_processor, thinking_model
from support.waiting import WAIT_S

END = 2
TOKENIZER = Tokenizer.from_directory(DENSE)
VOCAB = TOKENIZER.vocab_size
MODEL = InputProcessor(
    TOKENIZER, ChatTemplate.from_directory(DENSE), GenerationConfig(eos_token_ids=(END,)), 512, VOCAB
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 8}, "b": {"enum": [1, 2.5, None]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def _request(request_id: str, structured: dict[str, Any], prompt: int = 5, **sampling: Any) -> GenerateRequest:
    asked = {"temperature": 0, "max_tokens": 100, "structured_outputs": structured, **sampling}
    ids = tuple(range(prompt, prompt + 30))
    return GenerateRequest(request_id, input_ids=ids, sampling=SamplingParameters.from_json(asked))


def _answers(
    requests: list[GenerateRequest],
    num_blocks: int = 400,
    max_num_seqs: int = 8,
    model: InputProcessor = MODEL,
    drafts: Mapping[str, Output] | None = None,
) -> dict[str, Output]:
    """Return the answers, with drafts of which one in four is wrong if there are answers to take them from."""
    vocab_size = model.tokenizer.vocab_size
    engine = Engine(
        NoiseRunner(num_blocks, 4, vocab_size),
        BlockManager(num_blocks, 4),
        SchedulerLimits(max_num_seqs, 64, 99),
        reference_sampler(vocab_size),
    )
    states = [model.process(request) for request in requests]
    for state in states:
        state.start_mask()
        assert engine.submit(state) is None
    outputs: dict[str, list[Output]] = {request.request_id: [] for request in requests}
    chance = random.Random(4)
    while engine.has_work:
        for sequence in (state.sequence for state in states if drafts):
            known = (*(drafts or {})[sequence.request_id].token_ids, END, 5)[sequence.num_generated :]
            sequence.draft_ids = tuple(
                token_id if chance.random() < 0.75 else chance.randrange(vocab_size) for token_id in known[:4]
            )
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check_integrity()
    if num_blocks < 100:
        assert engine.heartbeat.preemptions
    return {request_id: join_outputs(each) for request_id, each in outputs.items()}


def _fits(text: str) -> bool:
    value = json.loads(text)
    return list(value) == ["a", "b"] and len(value["a"]) <= 8 and value["b"] in [1, 2.5, None]


def test_answers_fit_alone_together_cached_preempted_and_drafted() -> None:
    requests = [
        _request(f"{prompt}-{seed}", {"json": SCHEMA}, prompt, seed=seed, temperature=temperature)
        for prompt in (5, 9)
        for seed, temperature in enumerate((0, 1.0, 1.0))
    ]
    together = _answers(requests)
    for answer in together.values():
        assert (answer.error, answer.finish_reason) == (None, "stop")
        assert _fits(answer.text), answer.text
    assert len({answer.text for answer in together.values()}) > 3
    for others in (
        _answers(requests, max_num_seqs=1),
        _answers(requests, num_blocks=40),
        _answers(requests, drafts=together),
    ):
        assert {name: each.text for name, each in others.items()} == {
            name: each.text for name, each in together.items()
        }


@pytest.mark.parametrize(
    "sampling", [{}, {"ignore_eos": True}, {"min_tokens": 60}, {"allowed_token_ids": list(range(3, VOCAB))}]
)
def test_a_complete_answer_ends_whatever_excludes_the_end_token(sampling: dict[str, Any]) -> None:
    (answer,) = _answers([_request("r", {"choice": ["yes", "no"]}, **sampling)]).values()
    assert answer.text in {"yes", "no"}
    assert (answer.finish_reason, answer.error) == ("stop", None)
    assert END not in answer.token_ids


def test_an_answer_that_may_go_on_ends_with_the_end_token_or_is_cut() -> None:
    texts = {}
    changes: dict[str, dict[str, Any]] = {
        "free": {},
        "longer": {"min_tokens": 20},
        "endless": {"ignore_eos": True},
    }
    for name, sampling in changes.items():
        (answer,) = _answers([_request(name, {"regex": "[ab]+"}, **sampling)]).values()
        texts[name] = answer.text
        assert set(answer.text) <= {"a", "b"}
        assert (answer.finish_reason == "stop") is (answer.token_ids[-1] == END)
    assert len(texts["free"]) < len(texts["longer"]) < len(texts["endless"])


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("ernie-45-vl", r"(?s)(?P<thinking>.*?)</think>\n{0,4}(?P<answer>[^\n].*)"),
        ("ernie-45-vl-thinking", r"(?s)(?P<thinking>.*?)</think>\n{0,4}(?P<answer>[^\n].*)"),
        (
            "ernie-x1",
            r"(?s)(?P<thinking>.*?)\n</think>\n{2,4}<response>\n(?P<answer>[^\n].*[^\n])\n</response>\n{0,4}",
        ),
    ],
)
def test_with_thinking_the_grammar_begins_after_it_in_the_format_of_the_model(
    tmp_path: Path, form: str, pattern: str
) -> None:
    model = load_processor(thinking_model(tmp_path, form))
    messages = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    requests = [
        replace(
            _request(
                str(seed), {"json": SCHEMA}, reasoning_max_tokens=9, seed=seed, temperature=1.0, **sampling
            ),
            input_ids=None,
            messages=messages,
        )
        for seed in range(3)
        for sampling in ({}, {"ignore_eos": True})
    ]
    for request in requests:
        (answer,) = _answers([request], model=model).values()
        assert (answer.error, answer.finish_reason) == (None, "stop")
        parts = re.fullmatch(pattern, answer.text)
        assert parts is not None, answer.text
        assert _fits(parts["answer"])
        assert 9 <= answer.num_reasoning_tokens <= 12


def test_without_thinking_the_grammar_begins_at_once(tmp_path: Path) -> None:
    model = load_processor(thinking_model(tmp_path, "ernie-45-vl"))
    chat = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {"enable_thinking": False}}
    request = replace(_request("r", {"json": SCHEMA}), input_ids=None, messages=json.dumps(chat).encode())
    (answer,) = _answers([request], model=model).values()
    assert _fits(answer.text)
    assert not answer.num_reasoning_tokens


def test_what_is_left_nothing_ends_alone() -> None:
    requests = [
        _request("none", {"regex": "[0-9]+"}, allowed_token_ids=[END, 400]),
        _request("good", {"json": SCHEMA}),
    ]
    answers = _answers(requests)
    assert str(answers["none"].error).startswith("invalid_value")
    assert _fits(answers["good"].text)


def test_the_form_of_many_answers_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = InputProcessor(TOKENIZER, MODEL.template, MODEL.defaults, 512, VOCAB)
    read: list[Any] = []

    def reading(structured: dict[str, Any], special: SpecialTokens) -> Grammar:
        read.append(structured)
        return structured_grammar(structured, special)

    monkeypatch.setattr("ernie_backend.engine.answer_masks.structured_grammar", reading)
    wrong: dict[str, Any] = {"json": {"not": {}}}
    for number in range(3):
        model.process(_request(str(number), {"json": SCHEMA})).start_mask()
        with pytest.raises(InvalidValue, match="not cannot be enforced"):
            model.process(_request(str(number), wrong))
    assert read == [{"json": SCHEMA}, wrong]


def test_a_model_without_an_end_of_sequence_token_refuses() -> None:
    model = InputProcessor(TOKENIZER, MODEL.template, GenerationConfig(eos_token_ids=(VOCAB,)), 512, VOCAB + 1)
    with pytest.raises(InvalidValue, match="end-of-sequence"):
        model.process(_request("r", {"json_object": True}))


def test_a_model_without_tokenizer_refuses() -> None:
    model = InputProcessor(NullTokenizer(DENSE, VOCAB), MODEL.template, MODEL.defaults, 512, VOCAB)
    with pytest.raises(InvalidValue, match="tokenizer"):
        model.process(_request("r", {"json_object": True}))


class _Slow(GrammarCompiler):
    """Compiles when it is let through."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, (END,))
        self.go_on = threading.Event()
        self.sources: list[str] = []

    def _compiled(self, source: str) -> Any:
        self.sources.append(source)
        assert self.go_on.wait(WAIT_S)
        return super()._compiled(source)


def test_a_request_that_waits_for_its_grammar_holds_up_no_other_and_can_be_cancelled() -> None:
    model = InputProcessor(TOKENIZER, MODEL.template, MODEL.defaults, 512, VOCAB)
    slow = model._answer_masks.__dict__["_compiler"] = _Slow()
    inbox = Inbox()
    thread = InputThread(model, inbox, 8)
    for request_id, structured in (
        ("cancelled", {"regex": "a"}),
        ("waiting", {"regex": "b"}),
        ("wrong", {"regex": "["}),
    ):
        thread.submit(_request(request_id, structured))
    thread.submit(GenerateRequest("plain", input_ids=(5,)))
    assert [each.request_id for each in inbox.take(WAIT_S).requests] == ["plain"]
    thread.cancel(Cancel("cancelled"))
    thread.submit(_request("cancelled", {"regex": "c"}))  # another request with the id
    slow.go_on.set()
    requests: list[RequestState] = []
    refusals: list[Output] = []
    while len(requests) + len(refusals) < 3:
        arrivals = inbox.take(WAIT_S)
        assert arrivals.requests or arrivals.refusals
        requests += arrivals.requests
        refusals += arrivals.refusals
    assert sorted(each.request_id for each in requests) == ["cancelled", "waiting"]
    assert [(each.request_id, str(each.error)[:13]) for each in refusals] == [("wrong", "invalid_value")]
    masks = {each.request_id: each.sequence.token_mask for each in requests}
    (mask,) = (masks["cancelled"],)
    assert mask is not None
    mask.accept(TOKENIZER.encode("c")[0])
    assert mask.is_complete


def test_the_grammar_of_a_cancelled_request_is_not_compiled() -> None:
    model = InputProcessor(TOKENIZER, MODEL.template, MODEL.defaults, 512, VOCAB)
    slow = model._answer_masks.__dict__["_compiler"] = _Slow()
    inbox = Inbox()
    thread = InputThread(model, inbox, 8)
    for text in ("first", "second", "cancelled", "last"):  # there are two workers
        thread.submit(_request(text, {"choice": [text]}))
    thread.submit(GenerateRequest("plain", input_ids=(5,)))
    assert [each.request_id for each in inbox.take(WAIT_S).requests] == ["plain"]
    thread.cancel(Cancel("cancelled"))
    slow.go_on.set()
    names: list[str] = []
    while len(names) < 3:
        arrivals = inbox.take(WAIT_S)
        assert arrivals.requests
        names += [each.request_id for each in arrivals.requests]
    assert sorted(names) == ["first", "last", "second"]
    assert len(slow.sources) == 3
    assert not any("cancelled" in source for source in slow.sources)


def _chain(length: int) -> str:
    rules = "".join(f'r{number}: "a" r{number + 1}\n' for number in range(length))
    return f'start: r0\n{rules}r{length}: "b"'


def _references(length: int) -> str:
    definitions = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(length)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "integer"}}}
    return f"start: %json {json.dumps(schema)}"


@pytest.mark.parametrize(
    "source",
    [
        _chain(10_000),
        _references(5_000),
        'start: "' + "a" * (1 << 20) + '"',
        pytest.param('start: %json {"type": "integer", "multipleOf": 9999991}', marks=pytest.mark.full),
    ],
    ids=["deep rules", "deep references", "long", "slow"],
)
def test_a_grammar_that_would_end_the_engine_is_refused_alone(source: str) -> None:
    compiler = GrammarCompiler(TOKENIZER, (END,))
    with pytest.raises(InvalidValue, match=r"too large|characters"):
        compiler.compile(source)
    for length in (3, 500):
        compiler.compile(_chain(length))
        compiler.compile(_references(length))


class _Counting(Trial):
    """Counts what it tries."""

    def __init__(self) -> None:
        super().__init__(vocabulary(TOKENIZER, (END,)))
        self.count = 0

    def error_of(self, source: str) -> str:
        self.count += 1
        return super().error_of(source)


def test_grammars_are_tried_once_and_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, trial = GrammarCompiler(TOKENIZER, (END,)), _Counting()
    monkeypatch.setattr(compiler, "_own_trial", lambda: trial)
    monkeypatch.setattr("ernie_backend.grammar.compiler.MAX_TRIED", 3)
    for _ in range(2):
        compiler.compile('start: "a"')
        with pytest.raises(InvalidValue, match="unknown name"):
            compiler.compile("start: a")
    assert trial.count == 2
    for number in range(3):
        compiler.compile(f'start: "{number}"')
        compiler.compile('start: "a"')
    assert trial.count == 5, "the grammar that was needed is still remembered"
    with pytest.raises(InvalidValue, match="unknown name"):
        compiler.compile("start: a")
    assert trial.count == 6


def test_a_trial_that_was_killed_says_nothing_about_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, trial = GrammarCompiler(TOKENIZER, (END,)), _Counting()
    monkeypatch.setattr(compiler, "_own_trial", lambda: trial)
    compiler.compile('start: "a"')
    assert trial._process is not None
    trial._process.kill()
    with pytest.raises(InvalidValue, match="too large"):
        compiler.compile('start: "b"')
    compiler.compile('start: "b"')


def test_a_grammar_that_ended_its_trial_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, trial = GrammarCompiler(TOKENIZER, (END,)), _Counting()
    monkeypatch.setattr(compiler, "_own_trial", lambda: trial)
    for _ in range(2):
        with pytest.raises(InvalidValue, match="too large"):
            compiler.compile(_chain(10_000))
    assert trial.count == 1


def test_a_grammar_that_is_known_does_not_wait_for_new_ones() -> None:
    compiler, go_on = GrammarCompiler(TOKENIZER, (END,)), threading.Event()
    compiler.compile('start: "a"')
    for _ in range(2):
        compiler._workers.submit(go_on.wait, 60)
    new = compiler.submit('start: "b"')
    assert compiler.submit('start: "a"').result(60)
    assert not new.done()
    go_on.set()
    assert new.result(60)


def test_workers_and_trials_give_way_to_the_engine() -> None:
    def niceness() -> tuple[int, int]:
        process = compiler._own_trial()._process
        assert process is not None
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return own, os.getpriority(os.PRIO_PROCESS, process.pid)

    compiler = GrammarCompiler(TOKENIZER, (END,))
    nicer = min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19)
    assert compiler._workers.submit(niceness).result() == (nicer, nicer)


def _go_on(mask: TokenMask, answer: list[int]) -> None:
    choices = random.Random(1)
    while True:
        answer.append(choices.choice([each for each in allowed(mask, VOCAB) if each != END]))
        mask.accept(answer[-1])


def test_an_answer_does_not_use_up_what_others_need() -> None:
    """The lexer of this grammar reaches a limit of llguidance's within some hundred tokens."""
    compiler, answers = GrammarCompiler(TOKENIZER, (END,)), (list[int](), list[int]())
    for answer in answers:
        mask = compiler.compile(structured_grammar({"regex": r"(\w+\s?){1,500}"}, {}).source()).start()
        with pytest.raises(InvalidValue, match="simpler"):
            _go_on(mask, answer)
    assert answers[0] == answers[1]
    assert len(answers[0]) > 10
