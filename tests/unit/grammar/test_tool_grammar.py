"""Grammars of tool calls, compiled by llguidance: the answers that they take, and those that they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from ernie_backend.grammar.parts import NEWLINES, Grammar
from ernie_backend.grammar.tool_grammar import CallTags, arguments_grammar, tool_grammar
from ernie_wire.conversation import Tool, ToolRequest

BEGIN, END, EOS, THOUGHT = "<tool_call>", "</tool_call>", "</s>", "</think>"
SPECIAL = {0: EOS, 256: BEGIN, 257: END, 258: THOUGHT}
TAGS = CallTags(256, 257, (0,))
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", SCHEMA)
CLOCK = Tool("时钟.now", {"type": "object", "properties": {}, "additionalProperties": False})
ANSWER = Grammar('call "s"', 'call: "ye"')


class Bytes:
    """A vocabulary of the 255 bytes above 0 and some special tokens."""

    eos_token_id = 0
    bos_token_id = None

    def __init__(self) -> None:
        self.tokens = [SPECIAL.get(each, "").encode() or bytes([each]) for each in range(259)]
        self.special_token_ids = list(SPECIAL)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=259, eos_token=0)


def ids_of(text: str) -> list[int]:
    """Return the tokens of a text, in which ``SPECIAL`` are single ones."""
    for token_id, special in SPECIAL.items():
        before, found, after = text.partition(special)
        if found:
            return [*ids_of(before), token_id, *ids_of(after)]
    return list(text.encode())


def takes(grammar: Grammar | None, text: str) -> bool:
    """Whether a grammar takes a text as a whole answer, which may begin with newlines."""
    source = "" if grammar is None else grammar.source(before=NEWLINES)
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(source))
    assert not matcher.get_error()
    ids = ids_of(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def call(name: str = "get_weather", arguments: str = '{"city": "Paris"}') -> str:
    return f'{{"name": "{name}", "arguments": {arguments}}}'


def tagged(*calls: str) -> str:
    return "\n".join(f"{BEGIN}\n{each}\n{END}" for each in calls)


CLOCK_CALL = call("时钟.now", "{}")
REQUIRED = ToolRequest((WEATHER, CLOCK), is_required=True)
ONE = ToolRequest((WEATHER, CLOCK), is_required=True, is_parallel=False)


@pytest.mark.parametrize(
    ("changes", "takes_others"),
    [
        ({}, False),
        ({"required": ["city", "unit"]}, True),
        ({"additionalProperties": True}, True),
        ({"additionalProperties": {"type": "integer"}}, True),
        ({"patternProperties": {"^u": {"type": "integer"}}}, True),
        ({"allOf": [{"properties": {"unit": {"type": "integer"}}}]}, True),
    ],
)
def test_a_function_has_no_other_arguments_unless_its_schema_says_so(
    changes: dict[str, Any], *, takes_others: bool
) -> None:
    schema = {name: value for name, value in SCHEMA.items() if name != "additionalProperties"} | changes
    grammar = tool_grammar(ToolRequest((Tool("get_weather", schema),), is_required=True), TAGS)
    assert takes(grammar, tagged(call(arguments='{"city": "Paris", "unit": 1}'))) == takes_others


@pytest.mark.parametrize("newlines", ["", "\n", "\n\n\n"])
def test_required_calls_between_tags(newlines: str) -> None:
    several, one = tool_grammar(REQUIRED, TAGS), tool_grammar(ONE, TAGS)
    for source in (several, one):
        assert takes(source, f"{newlines}{tagged(call())}{newlines}")
        assert takes(source, tagged(call(arguments='{"city": "}}\\"<tool>", "days": 3}')))
        assert takes(source, tagged(call(arguments='{"city":"Paris"}')))
        assert takes(source, tagged(call(arguments='{\n  "city": "Paris"\n}')))
        assert takes(source, tagged(CLOCK_CALL))
    two = f"{tagged(call())}{newlines}{tagged(CLOCK_CALL)}"
    assert takes(several, two)
    assert not takes(one, two)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        call(),
        f"yes{tagged(call())}",
        f"{tagged(call())}yes",
        f"{THOUGHT}{tagged(call())}",
        tagged(""),
        tagged(call())[: -len(END)],
        tagged(call("get_time")),
        tagged(call(arguments="{}")),
        tagged(call(arguments='{"city": 5}')),
        tagged(call(arguments='{"city": "Paris", "x": 1}')),
        tagged(call(arguments='"Paris"')),
        tagged(call(arguments='{"city":  "Paris"}')),
        tagged(call("时钟.now")),
    ],
)
def test_what_is_no_call_is_refused_where_one_is_required(text: str) -> None:
    for tools in (REQUIRED, ONE):
        assert not takes(tool_grammar(tools, TAGS, ANSWER), text)


def test_required_calls_without_tags() -> None:
    several, one = tool_grammar(REQUIRED, None, ANSWER), tool_grammar(ONE, None)
    assert takes(several, f"[{call()}]")
    assert takes(several, f"[{call()}, {CLOCK_CALL}, {call()}]")
    assert takes(one, call())
    for text in ("", "[]", "yes", f"[{call()}", f"[{call()}] ", f"[{call('f')}]", f"[{call(arguments='{}')}]"):
        assert not takes(several, text)
        assert not takes(one, text)
    assert not takes(several, call())
    assert not takes(one, f"[{call()}]")
    for text in (f"{call()}{call()}", call("f"), call(arguments="{}"), tagged(call())):
        assert not takes(one, text)


def test_answers_that_need_not_call_are_free() -> None:
    tools = ToolRequest((WEATHER, CLOCK))
    assert tool_grammar(tools, TAGS) is None
    assert tool_grammar(ToolRequest(tools.tools, is_parallel=False), None) is None
    assert tool_grammar(tools, None) is None
    assert tool_grammar(tools, None, ANSWER) == ANSWER


@pytest.mark.parametrize(
    ("is_parallel", "is_strict", "is_limited"),
    [(True, True, False), (True, False, True), (False, False, False)],
)
def test_calls_that_are_checked_come_after_free_text(
    is_parallel: bool, is_strict: bool, is_limited: bool
) -> None:
    tools = (Tool("get_weather", SCHEMA, is_strict), CLOCK)
    source = tool_grammar(ToolRequest(tools, is_parallel=is_parallel, is_limited=is_limited), TAGS)
    free = f"\n{THOUGHT} free text, {{\n{call()} 天气 {END}"
    for text in ("", free, tagged(call()), f"{free}{tagged(call())}\n"):
        assert takes(source, text)
    assert takes(source, f"{free}{tagged(call(), CLOCK_CALL)}") == is_parallel
    for text in (
        BEGIN,
        tagged(call(arguments="{}")),
        f"{free}{tagged(call('f'))}",
        f"{tagged(call())}free",
    ):
        assert not takes(source, text)


def test_where_calls_do_not_follow_text_they_are_all_of_the_answer() -> None:
    tools = ToolRequest((Tool("get_weather", SCHEMA, is_strict=True), CLOCK))
    source = tool_grammar(tools, replace(TAGS, newline_ids=(10,)))
    for text in ("", "\nyes\n", f"\n\n{tagged(call())}", tagged(call(), CLOCK_CALL)):
        assert takes(source, text)
    for text in (f"yes{tagged(call())}", f"{tagged(call())}yes", tagged(call(arguments="{}"))):
        assert not takes(source, text)


def test_calls_or_an_answer_of_a_form() -> None:
    source = tool_grammar(ToolRequest((WEATHER, CLOCK)), TAGS, ANSWER)
    for text in ("yes", "\n\n\nyes", f"\n\n{tagged(call())}", tagged(call(), CLOCK_CALL)):
        assert takes(source, text)
    for text in ("", "no", f"yes{tagged(call())}", tagged(call(arguments="{}"))):
        assert not takes(source, text)


def test_arguments_of_any_form() -> None:
    source = tool_grammar(ToolRequest((WEATHER,), is_required=True), TAGS, unchecked={"get_weather"})
    for arguments in ("{}", '{"a": [1, {"b": null}]}'):
        assert takes(source, tagged(call(arguments=arguments)))
    assert not takes(source, tagged(call(arguments="[]")))


@pytest.mark.parametrize(
    ("schema", "is_strict", "is_compiled"),
    [
        (SCHEMA, True, True),
        ({"$ref": "#/$defs/a", "type": "object", "$defs": {"a": SCHEMA}}, True, True),
        ({**SCHEMA, "not": {}}, False, True),
        ({"type": "object", "$ref": "#/nowhere"}, False, False),
        ({"type": "object", "description": "\ud800"}, False, False),
    ],
)
def test_only_what_is_strict_must_be_checked_in_whole(
    schema: dict[str, Any], is_strict: bool, is_compiled: bool
) -> None:
    source = arguments_grammar(Tool("f", schema, is_strict)).source()
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(source), TOKENIZER)
    assert (error == "") == is_compiled


def test_many_tools() -> None:
    tools = ToolRequest(tuple(Tool(f"f{index}", SCHEMA, is_strict=True) for index in range(128)), True)
    source = tool_grammar(tools, TAGS)
    assert takes(source, tagged(call("f127"), call("f7")))
    assert not takes(source, tagged(call("f128")))
    assert json.loads(call("f127"))["arguments"] == {"city": "Paris"}
