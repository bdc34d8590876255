"""Thinking by token ids: where it begins and ends, how models write it, and what the client learns of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.chat import formats
from ernie_backend.chat.formats import answer_format
from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.errors import StartError
from ernie_backend.request.reasoning import ReasoningTracker, ThinkTags
from ernie_backend.runner.sampler import SampledToken
from ernie_backend.settings.engine_settings import ParserSettings
from ernie_frontend.parsing.answer_parser import AnswerFormat, parse_answer
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest, Output, join_outputs
from ernie_wire.sampling import SamplingParameters
from support.paths import DATA, DENSE
from support.thinking_model import FORMATS, load_processor, thinking_model

BEGIN, END = 1, 2
TAGS = ThinkTags(BEGIN, END)
TOKENIZER = Tokenizer.from_directory(DENSE)
THINK, END_OF_THINK = TOKENIZER.encode("<think></think>")
(A,) = TOKENIZER.encode("a")
IDS = st.lists(st.integers(0, 3), max_size=8)


@given(IDS, IDS, st.integers(0, 8))
def test_thinking_is_what_is_between_its_tags(prompt: list[int], answer: list[int], num_undone: int) -> None:
    tracker = ReasoningTracker(TAGS, is_open=TAGS.are_open(prompt))
    for token_id in answer:
        tracker.accept(token_id)
    num_undone = min(num_undone, len(answer))
    tracker.rollback(num_undone)
    answer = answer[: len(answer) - num_undone]
    tags = [each for each in prompt if each in TAGS]
    text = str(BEGIN) * (tags[-1:] == [BEGIN]) + "".join(map(str, answer))
    spans = re.findall(f"{BEGIN}[^{END}]*{END}?", text)
    assert tracker.num_reasoning_tokens == sum(map(len, spans)) - (tags[-1:] == [BEGIN])
    assert tracker.is_thinking is bool(spans and text.endswith(spans[-1]) and not spans[-1].endswith(str(END)))


def format_of(directory: Path, **settings: str | None) -> formats.AnswerFormat:
    template = ChatTemplate.from_directory(directory)
    return answer_format(ParserSettings(**settings), template, Tokenizer.from_directory(directory))


@pytest.mark.parametrize(
    ("form", "calls", "closing"),
    [
        ("ernie-45-vl", None, "</think>"),
        ("ernie-45-vl-thinking", "ernie-45-vl-thinking", "</think>"),
        ("ernie-x1", "ernie-x1", "\n</think>\n\n"),
    ],
)
def test_the_model_chooses_its_parsers(tmp_path: Path, form: str, calls: str | None, closing: str) -> None:
    directory = thinking_model(tmp_path, form)
    found = format_of(directory)
    assert (found.reasoning_parser, found.tool_call_parser) == (form, calls)
    assert found.knows_tools is (calls is not None)
    assert found.think_tags == (THINK, END_OF_THINK)
    assert TOKENIZER.decode(found.closing_ids) == closing
    assert found.is_switched is (form != "ernie-x1")
    others = format_of(directory, reasoning_parser="ernie-45-vl", tool_call_parser=None)
    assert (others.reasoning_parser, others.tool_call_parser) == ("ernie-45-vl", None)


@pytest.mark.parametrize("name", ["chatml_tools", "headers_dated"])
def test_templates_of_others(name: str) -> None:
    source = (DATA / "chat_templates" / f"{name}.jinja").read_text()
    found = answer_format(ParserSettings(), ChatTemplate(source, {}), TOKENIZER)
    expected = "ernie-45-vl-thinking" if name == "chatml_tools" else None
    assert (found.reasoning_parser, found.tool_call_parser) == (expected, expected)
    assert found.knows_tools


def test_a_text_model_has_no_parser() -> None:
    found = format_of(DENSE)
    assert (found.reasoning_parser, found.tool_call_parser, found.knows_tools) == (None, None, False)


def test_a_parser_whose_tags_are_not_tokens_is_refused_unless_nobody_chose_it(tmp_path: Path) -> None:
    template = ChatTemplate.from_directory(thinking_model(tmp_path, "ernie-x1"))
    tokenizer = NullTokenizer(tmp_path, 640)
    found = answer_format(ParserSettings(), template, tokenizer)
    assert (found.reasoning_parser, found.tool_call_parser, found.think_tags) == (None, None, None)
    for settings, missing in (
        ({"reasoning_parser": "ernie-x1"}, "reasoning_parser ernie-x1 needs <think> and </think>"),
        ({"tool_call_parser": "ernie-x1"}, "tool_call_parser ernie-x1 needs <tool_call> and </tool_call>"),
    ):
        with pytest.raises(StartError, match=missing):
            answer_format(ParserSettings(**settings), template, tokenizer)


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InputProcessor]:
    directories = {form: thinking_model(tmp_path_factory.mktemp(form), form) for form in FORMATS}
    return {form: load_processor(directory) for form, directory in {**directories, "text": DENSE}.items()}


def request(more: dict[str, Any] | None = None, **sampling: Any) -> GenerateRequest:
    chat = {"messages": [{"role": "user", "content": "Hi</think>"}], **(more or {})}
    return GenerateRequest(
        "r",
        messages=json.dumps(chat).encode(),
        stream=True,
        sampling=SamplingParameters.from_json(sampling),
        return_marks=True,
        return_token_ids=True,
    )


def answered(processor: InputProcessor, asked: GenerateRequest, token_ids: tuple[int, ...]) -> list[Output]:
    """Return the output of each token, chosen by the test."""
    state = processor.process(asked)
    outputs = [state.advance([SampledToken(each)]) for each in token_ids]
    return [each for each in outputs if each is not None]


OFF, ON = (
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {"enable_thinking": True}},
)
CLOSED = {"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}
NO_EFFORT = {"chat_template_kwargs": {"reasoning_effort": "none"}}


@pytest.mark.parametrize(
    ("form", "more", "tag"),
    [
        ("ernie-45-vl", {}, "<think>"),
        ("ernie-45-vl", OFF, "</think>"),
        ("ernie-45-vl", CLOSED, "</think>"),
        ("ernie-45-vl", NO_EFFORT, "</think>"),
        ("ernie-45-vl", {"chat_template_kwargs": {"enable_thinking": "False"}}, "</think>"),
        ("ernie-45-vl-thinking", {}, "<think>"),
        ("ernie-45-vl-thinking", OFF, "</think>"),
        ("ernie-45-vl-thinking", CLOSED, "</think>"),
        ("ernie-45-vl-thinking", {"chat_template_kwargs": {"options": {"thinking_mode": False}}}, "</think>"),
        ("ernie-45-vl-thinking", {"chat_template_kwargs": {"options": {"thinking_mode": True}}}, "<think>"),
        ("ernie-x1", {}, "<think>"),
        ("ernie-x1", OFF, "<think>"),
        ("text", ON, ""),
    ],
)
def test_the_switch_and_the_tag_that_an_answer_begins_after(
    processors: dict[str, InputProcessor], form: str, more: dict[str, Any], tag: str
) -> None:
    first, second = answered(processors[form], request(more), (50, 51))
    assert (first.prompt_tag, second.prompt_tag) == (tag, None)
    assert (first.num_reasoning_tokens, second.num_reasoning_tokens) == ((1, 1) if tag == "<think>" else (0, 0))


@given(st.integers(0, 6))
def test_reasoning_tokens_end_with_the_tag(processors: dict[str, InputProcessor], length: int) -> None:
    """Also in an answer that has tags of its own, as after a template that writes none."""
    token_ids = (*(50,) * length, END_OF_THINK, 51, THINK, 52, END_OF_THINK)
    counts = [each.num_reasoning_tokens for each in answered(processors["ernie-45-vl"], request(), token_ids)]
    assert counts == [1] * (length + 1) + [0, 1, 1, 1]
    itself = answered(processors["text"], request(), token_ids)
    assert [each.num_reasoning_tokens for each in itself] == [0] * (length + 2) + [1, 1, 1]


@given(st.sampled_from(FORMATS), st.lists(st.sampled_from([A, THINK, END_OF_THINK]), min_size=1, max_size=9))
def test_what_is_counted_is_what_the_client_reads_as_thinking(
    processors: dict[str, InputProcessor], form: str, token_ids: list[int]
) -> None:
    outputs = answered(processors[form], request(), tuple(token_ids))
    counted = [each for each, output in zip(token_ids, outputs, strict=True) if output.num_reasoning_tokens]
    parsed = parse_answer(AnswerFormat(form), outputs[0].prompt_tag or "", join_outputs(outputs))
    assert (parsed.reasoning, parsed.content) == (
        "a" * counted.count(A),
        "a" * (token_ids.count(A) - counted.count(A)),
    )


def test_a_switch_that_is_neither_on_nor_off_is_refused(processors: dict[str, InputProcessor]) -> None:
    with pytest.raises(InvalidValue, match="enable_thinking"):
        processors["ernie-45-vl"].process(request({"chat_template_kwargs": {"enable_thinking": "maybe"}}))
