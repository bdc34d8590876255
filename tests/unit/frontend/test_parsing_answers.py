"""Answers of all formats: what they are parsed to, wherever their text is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_frontend.parsing.answer_parser import AnswerFormat, ParsedAnswer, ToolCall, parse_answer
from support.transcripts import pieces, streamed, transcript

VL = AnswerFormat("ernie-45-vl")
THINKING = AnswerFormat("ernie-45-vl-thinking")
X1 = AnswerFormat("ernie-x1")
THINKING_TOOLS = AnswerFormat("ernie-45-vl-thinking", "ernie-45-vl-thinking")
X1_TOOLS = AnswerFormat("ernie-x1", "ernie-x1")
VL_JSON = AnswerFormat("ernie-45-vl", "json")
JSON = AnswerFormat(None, "json")
PLAIN = AnswerFormat()

WEATHER = '{"name": "get_weather", "arguments": {"location": "Beijing"}}'
CALL = ToolCall("get_weather", '{"location": "Beijing"}')
BLOCK = f"«tool_call»\n{WEATHER}\n«/tool_call»"
RAW = f"<tool_call>\n{WEATHER}\n</tool_call>"


def parsed(reasoning: str = "", content: str = "", *calls: ToolCall) -> ParsedAnswer:
    return ParsedAnswer(reasoning, content, calls)


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(name, arguments)


ANSWERS: dict[str, tuple[AnswerFormat, str, str, ParsedAnswer]] = {
    # Vectors of FastDeploy's behaviour, with our decisions.
    "a call": (THINKING_TOOLS, "<think>", f"thinking\n«/think»\n\n{BLOCK}", parsed("thinking", "", CALL)),
    "text before the first call": (
        THINKING_TOOLS,
        "<think>",
        f"thinking\n«/think»\n\nhello\n{BLOCK}",
        parsed("thinking", f"hello\n{RAW}"),
    ),
    "a second call that is cut": (
        THINKING_TOOLS,
        "<think>",
        f'thinking\n«/think»\n\n{BLOCK}\n«tool_call»\n{{"name": "f", "arguments": {{"loc',
        parsed("thinking", '<tool_call>\n{"name": "f", "arguments": {"loc', CALL),
    ),
    "x1": (X1, "<think>", "a\n«/think»\n\n\n«response»\nb\n«/response»\n", parsed("a", "b")),
    "vl": (VL, "<think>", "a«/think»b", parsed("a", "b")),
    "vl, reasoning only": (VL, "<think>", "a", parsed("a")),
    # Reasoning and content.
    "plain": (PLAIN, "<think>", "\n\na <think>\n", parsed("", "\n\na <think>\n")),
    "plain, with tokens": (PLAIN, "", "\na«think»«nl»\n\n", parsed("", "\na<think><nl>\n\n")),
    "vl, thinking off": (VL, "</think>", "\n\nb\n", parsed("", "b\n")),
    "vl, nothing": (VL, "<think>", "", parsed()),
    "vl, newlines only": (VL, "<think>", "\n\n«/think»\n\n", parsed()),
    "vl, own tag": (VL, "<|end_of_sentence|>", "«think»\na\n«/think»\n\nb", parsed("a", "b")),
    "vl, own tag in spite of the prompt's": (VL, "<think>", "«think»\na«/think»b", parsed("a", "b")),
    "vl, tag as text": (VL, "<think>", "a</think>b«/think»<think>c", parsed("a</think>b", "<think>c")),
    "vl, other tokens": (VL, "<think>", "a«nl»«/think»«fcel»b", parsed("a<nl>", "<fcel>b")),
    "vl, no tag in the prompt": (VL, "", "b", parsed("", "b")),
    "vl, thinks again": (VL, "<think>", "a«/think»b«think»c«/think»d", parsed("ac", "bd")),
    "vl, stray tag": (VL, "</think>", "b«/think»c", parsed("", "bc")),
    "thinking, one newline before the tag": (THINKING, "<think>", "\na\n\n«/think»b", parsed("a\n", "b")),
    "x1 without response": (X1, "<think>", "a\n«/think»\nb\n", parsed("a", "b")),
    "x1, exactly one newline": (
        X1,
        "<think>",
        "a\n«/think»\n\n\n«response»\n\nb\n\n«/response»\n",
        parsed("a", "\nb\n"),
    ),
    "x1, newlines without response": (X1, "<think>", "«/think»\n\n\n\nb\n\n", parsed("", "b\n")),
    "x1, as FastDeploy closes thinking": (X1, "<think>", "a\n«/think»\n\nb", parsed("a", "b")),
    "x1, no end of the response": (X1, "<think>", "a\n«/think»\n«response»\nb", parsed("a", "b")),
    "x1, no end of the reasoning": (X1, "<think>", "a\n«response»\nb\n«/response»", parsed("a\n\nb", "")),
    "vl, text before its own tag": (VL, "", "\n«think»a«/think»b", parsed("a", "b")),
    "x1, text around the response": (
        X1,
        "<think>",
        "a«/think»\nb\n«response»\nc\n«/response»\nd",
        parsed("a", "bcd"),
    ),
    "x1, the end of the response only": (X1, "", "b\n«/response»\n", parsed("", "b")),
    "x1, tools not requested": (X1, "<think>", f"a\n«/think»\n{BLOCK}\n", parsed("a", RAW)),
    "thinking, tools not requested": (THINKING, "<think>", f"a«/think»\n{BLOCK}", parsed("a", RAW)),
    "continued content": (
        AnswerFormat("ernie-45-vl", is_continued=True),
        "</think>",
        "\n\nb",
        parsed("", "\n\nb"),
    ),
    "continued response": (
        AnswerFormat("ernie-x1", is_continued=True),
        "",
        "\nb\n«/response»",
        parsed("", "\nb"),
    ),
    "continued reasoning": (
        AnswerFormat("ernie-x1", is_continued=True),
        "<think>",
        "\na\n«/think»\n\n\n«response»\nb",
        parsed("\na", "b"),
    ),
    # Calls.
    "x1, two calls": (
        X1_TOOLS,
        "<think>",
        f"a\n«/think»\n\n\n{BLOCK}\n{BLOCK}\n",
        parsed("a", "", CALL, CALL),
    ),
    "x1, response before a call": (
        X1_TOOLS,
        "<think>",
        f"a\n«/think»\n\n\n«response»\nb\n«/response»\n{BLOCK}\n",
        parsed("a", "b", CALL),
    ),
    "x1, call in an open response": (
        X1_TOOLS,
        "<think>",
        f"«/think»\n«response»\nb\n{BLOCK}\n«/response»",
        parsed("", "b", CALL),
    ),
    "x1, text before, between and after": (
        X1_TOOLS,
        "</think>",
        f"one\n{BLOCK}\n two\n{BLOCK} three\n",
        parsed("", "onetwothree", CALL, CALL),
    ),
    "a call in the reasoning": (
        X1_TOOLS,
        "<think>",
        f"a {BLOCK} b\n«/think»\nc",
        parsed(f"a {RAW} b", "c"),
    ),
    "no end of the call": (X1_TOOLS, "</think>", f"«tool_call»{WEATHER}", parsed("", "", CALL)),
    "no end between calls": (
        THINKING_TOOLS,
        "</think>",
        f"«tool_call»{WEATHER}«tool_call»{WEATHER}",
        parsed("", "", CALL, CALL),
    ),
    "the last brace is missing": (
        THINKING_TOOLS,
        "</think>",
        f"«tool_call»\n{WEATHER[:-1]}\n«/tool_call»",
        parsed("", "", CALL),
    ),
    "a brace too many": (
        THINKING_TOOLS,
        "</think>",
        f"«tool_call»\n{WEATHER}}}\n«/tool_call»\n{BLOCK}",
        parsed("", "}\n</tool_call>\n", CALL, CALL),
    ),
    "two braces are missing": (
        THINKING_TOOLS,
        "</think>",
        f"«tool_call»\n{WEATHER[:-2]}\n«/tool_call»",
        parsed("", f"<tool_call>\n{WEATHER[:-2]}\n</tool_call>"),
    ),
    "an end without a call": (X1_TOOLS, "</think>", "a«/tool_call»b", parsed("", "a</tool_call>b")),
    "text after a call": (
        THINKING_TOOLS,
        "</think>",
        f"{BLOCK}\n\nthen\n{BLOCK}",
        parsed("", "then\n", CALL, CALL),
    ),
    "not a call": (
        X1_TOOLS,
        "</think>",
        "a\n«tool_call»b«/tool_call»\n",
        parsed("", "a\n<tool_call>b</tool_call>"),
    ),
    "not a call, then one": (
        X1_TOOLS,
        "</think>",
        f'«tool_call»{{"name": "f",}}«/tool_call»\n{BLOCK}',
        parsed("", '<tool_call>{"name": "f",}</tool_call>', CALL),
    ),
    "not a call, then text": (
        THINKING_TOOLS,
        "</think>",
        f"«tool_call»{{«/tool_call»{BLOCK}",
        parsed("", f"<tool_call>{{</tool_call>{RAW}"),
    ),
    "tags in a string": (
        X1_TOOLS,
        "</think>",
        '«tool_call»{"name": "f", "arguments": {"a": "</tool_call>«think»<tool_call>"}}«/tool_call»',
        parsed("", "", call("f", '{"a": "</tool_call><think><tool_call>"}')),
    ),
    "the end in a string": (
        X1_TOOLS,
        "</think>",
        '«tool_call»{"name": "f", "arguments": {"a": "«/tool_call»"}}',
        parsed("", '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}'),
    ),
    "no reasoning parser": (
        AnswerFormat(None, "ernie-x1"),
        "<think>",
        f"\na\n{BLOCK}",
        parsed("", "\na\n", CALL),
    ),
    # Calls without tags.
    "json, one call": (JSON, "", WEATHER, parsed("", "", CALL)),
    "json, an array": (JSON, "", f" [\n{WEATHER},\n{WEATHER}\n]\n", parsed("", "", CALL, CALL)),
    "json after reasoning": (VL_JSON, "<think>", f"a\n«/think»\n\n[{WEATHER}]", parsed("a", "", CALL)),
    "json, cut": (JSON, "", f"[{WEATHER}, {WEATHER[:-3]}", parsed("", f", {WEATHER[:-3]}", CALL)),
    "json, text": (JSON, "", f"so: {WEATHER}", parsed("", f"so: {WEATHER}")),
    "json, empty array": (JSON, "", "[]", parsed("", "[]")),
    "json, other values": (JSON, "", '[1, "a"]', parsed("", '[1, "a"]')),
    "json, text after": (JSON, "", f"{WEATHER} so", parsed("", " so", CALL)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_wherever_it_is_cut(name: str) -> None:
    form, prompt_tag, written, expected = ANSWERS[name]
    answer = transcript(written)
    assert parse_answer(form, prompt_tag, answer) == expected
    length = len(answer.text)
    for cut in range(length + 1):
        assert streamed(form, prompt_tag, pieces(answer, [cut])) == expected, cut
    assert streamed(form, prompt_tag, pieces(answer, range(length))) == expected


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 300), max_size=8))
def test_an_answer_in_pieces(name: str, cuts: list[int]) -> None:
    form, prompt_tag, written, expected = ANSWERS[name]
    assert streamed(form, prompt_tag, pieces(transcript(written), cuts)) == expected


texts = st.text(st.characters(codec="utf-8", exclude_characters="«»"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, ToolCall]:
    """Return a call as a model may write it, and as it is passed on."""
    name = draw(texts.filter(bool))
    values, indent = draw(st.dictionaries(texts, json_values, max_size=4)), draw(st.sampled_from([None, 2]))
    written = json.dumps(values, ensure_ascii=draw(st.booleans()), indent=indent)
    members = [f'"name": {json.dumps(name)}', f'"arguments": {written}']
    text = "{" + ",\n".join(reversed(members) if draw(st.booleans()) else members) + "}"
    return text, ToolCall(name, written)


@given(
    st.lists(calls(), max_size=4),
    st.lists(st.integers(0, 600), max_size=20),
    st.sampled_from([X1_TOOLS, VL_JSON]),
)
def test_any_calls_in_pieces(made: list[tuple[str, ToolCall]], cuts: list[int], form: AnswerFormat) -> None:
    if form is X1_TOOLS:
        written = "r\n«/think»\n\n" + "\n".join(f"«tool_call»\n{text}\n«/tool_call»" for text, _ in made)
    else:
        written = "r\n«/think»\n\n[" + ", ".join(text for text, _ in made) + "]"
    answer = transcript(written)
    content = "" if made or form is X1_TOOLS else "[]"
    expected = ParsedAnswer("r", content, tuple(call for _, call in made))
    assert parse_answer(form, "<think>", answer) == expected
    assert streamed(form, "<think>", pieces(answer, cuts)) == expected


forms = st.builds(
    AnswerFormat,
    st.sampled_from([None, "ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1"]),
    st.sampled_from([None, "ernie-45-vl-thinking", "ernie-x1", "json"]),
    st.booleans(),
)
fragments = st.lists(
    st.sampled_from(
        ["«think»", "«/think»", "«response»", "«/response»", "«tool_call»", "«/tool_call»", WEATHER]
    )
    | st.sampled_from(["\n", "\n\n", " ", "a", "{", "}", "[", "]", ",", WEATHER[:20], "<think>", "«nl»"]),
    max_size=14,
)


@given(forms, st.sampled_from(["", "<think>", "</think>"]), fragments, st.data())
def test_streamed_and_whole_are_the_same_whatever_the_model_writes(
    form: AnswerFormat, prompt_tag: str, written: list[str], data: st.DataObject
) -> None:
    answer = transcript("".join(written))
    whole = parse_answer(form, prompt_tag, answer)
    assert streamed(form, prompt_tag, pieces(answer, range(len(answer.text)))) == whole
    cuts = data.draw(st.lists(st.integers(0, len(answer.text)), max_size=6))
    assert streamed(form, prompt_tag, pieces(answer, cuts)) == whole
