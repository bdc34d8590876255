"""Tool calls: what is one, and that arguments are the model's own characters, passed on while they arrive."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ernie_frontend.parsing.answer_parser import AnswerFormat, AnswerParser, ToolCall, parse_answer
from ernie_frontend.parsing.json_scanner import MAX_DEPTH, NotJsonError, ObjectScanner
from support.transcripts import pieces, streamed, transcript

FORM = AnswerFormat("ernie-x1", "ernie-x1")


def parsed(text: str) -> tuple[ToolCall, ...]:
    """Return the calls in one block, which must be the same whole and character by character."""
    answer = transcript(f"«tool_call»\n{text}\n«/tool_call»")
    whole = parse_answer(FORM, "</think>", answer)
    assert streamed(FORM, "</think>", pieces(answer, range(len(answer.text)))) == whole
    assert whole.content == ("" if whole.tool_calls else f"<tool_call>\n{text}\n</tool_call>")
    return whole.tool_calls


def arguments_of(value: str) -> str:
    """Return the arguments of a call in which they are written as ``value``."""
    (call,) = parsed(f'{{"name": "f", "arguments": {value}}}')
    assert call.name == "f"
    return call.arguments


def nested(depth: int) -> str:
    """Return an object of this depth."""
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


@pytest.mark.parametrize(
    "written",
    [
        "{}",
        "{ }",
        '{"a": {"b": [{}, [], {"c": null}]}, "d": [1, -0.5e+10, true, false]}',
        r'{"a": "} ]} \" \\", "}}": "{\\\"{"}',
        r'{"a": "\u5317\ud83d\ude00", "b": "北京😀", "c": "\ud800"}',
        '{\n  "a": 1,\n  "a": 2\n}',
        '{"name": "g", "arguments": {"name": "h"}}',
        nested(MAX_DEPTH - 1),
        f'{{"a": {"9" * 5000}}}',
    ],
)
def test_arguments_are_passed_on_as_written(written: str) -> None:
    assert arguments_of(written) == written
    assert parsed(f'{{ "arguments" :{written} ,"name":"f" }}') == (ToolCall("f", written),)
    assert parsed(f'{{"name": "f", "parameters": {written}}}') == (ToolCall("f", written),)
    assert arguments_of(json.dumps(written)) == written


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"name": "f"}', ToolCall("f", "{}")),
        (r'{"name": "\u0066\u00e9"}', ToolCall("fé", "{}")),
        ('{"id": [1, {"name": "g"}], "name": "f", "arguments": {}, "type": ""}', ToolCall("f", "{}")),
        ('{"name": "f", "name": "g", "arguments": {"a": 1}, "arguments": 2}', ToolCall("f", '{"a": 1}')),
    ],
)
def test_other_forms_of_calls(written: str, expected: ToolCall) -> None:
    assert parsed(written) == (expected,)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "f()",
        "[]",
        '"f"',
        "{}",
        '{"arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": null, "arguments": {}}',
        r'{"name": "\ud800", "arguments": {}}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": null}',
        '{"name": "f", "arguments": "[]"}',
        '{"name": "f", "arguments": "{} {}"}',
        '{"name": "f", "arguments": "{"}',
        r'{"name": "f", "arguments": "{\"a\": \"\ud800\"}"}',
        '{"name": "f", "arguments": {"a": }}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {"a": 01}}',
        '{"name": "f", "arguments": {"a": "\n"}}',
        r'{"name": "f", "arguments": {"a": "\x"}}',
        '{"name": "f", "arguments": {"a": 1,}}',
        '{"name": "f", "arguments": {"a": [1}}',
        '{"name": "f", "arguments": {"a": "b}}',
        '{"name": "f" "arguments": {}}',
        '{"name": "f", "arguments": {}, }',
        f'{{"name": "f", "arguments": {nested(MAX_DEPTH)}}}',
        f'{{"name": "f", "arguments": {"[" * 10_000}',
        f'{{"name": {"9" * 5000}, "arguments": {{}}}}',
        '{"name": "f", "arguments": {"a": @}}',
        '{"name": "f", "arguments": {"a": 1 2}}',
    ],
)
def test_what_is_not_a_call_is_content(written: str) -> None:
    assert parsed(written) == ()


def test_arguments_are_passed_on_while_they_arrive() -> None:
    parser = AnswerParser(FORM, "</think>")
    texts = [
        '«tool_call»\n{"na',
        'me": "f',
        '", "argu',
        'ments": {"a',
        '": "b\\',
        "u00",
        '41c", "d": 1',
        "2",
        "}",
        "}",
    ]
    sent: list[tuple[Any, ...]] = []
    for text in texts:
        sent += map(astuple, parser.push(transcript(text)).tool_calls)
    assert sent == [
        (0, "f", ""),
        (0, None, '{"a'),
        (0, None, '": "b'),
        (0, None, '\\u0041c", "d": 1'),
        (0, None, "2"),
        (0, None, "}"),
    ]
    assert parser.completed_calls == {0}


def test_parts_that_arrive_together_are_one() -> None:
    parser = AnswerParser(FORM, "</think>")
    delta = parser.push(
        transcript('«tool_call»{"arguments": {"a": 1}, "name": "f"}«/tool_call»«tool_call»{"name": "g"')
    )
    assert tuple(map(astuple, delta.tool_calls)) == ((0, "f", ""), (0, None, '{"a": 1}'), (1, "g", ""))


def test_very_long_arguments() -> None:
    """In quadratic time this would take minutes."""
    long = json.dumps({"a": "x\\y" * 200_000, "b": [[1.5, {}]] * 10_000})
    answer = transcript(f'«tool_call»{{"name": "f", "arguments": {long}}}«/tool_call»')
    calls = streamed(FORM, "</think>", pieces(answer, range(0, len(answer.text), 40))).tool_calls
    assert calls == (ToolCall("f", long),)


def test_a_hundred_calls() -> None:
    answer = transcript("".join(f'«tool_call»{{"name": "f{index}"}}«/tool_call»\n' for index in range(100)))
    calls = streamed(FORM, "</think>", pieces(answer, range(len(answer.text)))).tool_calls
    assert [call.name for call in calls] == [f"f{index}" for index in range(100)]


def is_object(text: str) -> bool:
    """Whether Python's decoder reads an object, and nothing after it."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except ValueError:
        return False


def scanned(texts: list[str]) -> dict[str, str] | None:
    """Return the text of each member; None if the texts are not an object."""
    scanner, members = ObjectScanner(), dict[str, str]()
    rest = ""
    try:
        for text in texts:
            parts, rest = scanner.push(rest + text) if not scanner.is_closed else ([], rest + text)
            for key, value, _ in parts:
                members[key] = members.get(key, "") + value
    except NotJsonError:
        return None
    return members if scanner.is_closed and not rest.strip(" \t\n\r") else None


@given(st.text(st.sampled_from('{}[]":,\\ntfu01e.-+ \n/aé😀'), max_size=30), st.integers(0, 31))
@example('{"":0}', 3)
@example('{"":{"é":[1,"\\u0000"]}}', 13)
def test_what_is_json_is_as_for_python(text: str, cut: int) -> None:
    for candidate in (text, f'{{"a":{text}}}', f'{{"{text}":[{text}]}}'):
        texts = [candidate[:cut], candidate[cut:]]
        members = scanned(texts)
        assert (members is not None) == is_object(candidate)
        assert members == scanned([candidate]) == scanned(list(candidate))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.data())
def test_members_are_passed_on_as_written(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(
        value, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1]))
    )
    expected = {key: json.loads(json.dumps(each)) for key, each in value.items()}
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    texts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    members = scanned(texts)
    assert members is not None
    assert {key: json.loads(each) for key, each in members.items()} == expected
