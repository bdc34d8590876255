"""Warnings about requests that are answered all the same: what is named, and that the header stays one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.openapi import GENERATIONS
from ernie_frontend.schema.unsupported import IGNORED, UNSUPPORTED_IN_COMPLETIONS
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.translate.response_warnings import (
    MAX_HEADER_CHARACTERS,
    chat_warnings,
    unknown_fields,
    warning_header,
)

# RFC 7234, section 5.5: one warning, its text a quoted string of printable ASCII without escapes.
HEADER = re.compile(r'299 - "[ !#-\[\]-~]+"')


def warned(**fields: object) -> tuple[str, ...]:
    return chat_warnings(ChatRequest.model_validate(fields), RequestContext("r", 1000, 8))


def test_unknown_fields_are_named_once() -> None:
    assert warned(messages=[], top_k=1, verbosity="low", top_a=0.5) == (
        "unknown fields are ignored: verbosity, top_a",
    )
    assert warned(messages=[], verbosity=None, store=True, echo=False) == ()
    [warning] = warned(**{f"field{number}": number for number in range(1000)})
    assert warning.endswith("field15 and 984 more")


@pytest.mark.parametrize(
    ("choice", "result"),
    [(None, "it answers with text"), ("required", "a call is forced all the same"), ("none", None)],
)
def test_a_model_whose_template_knows_no_tools(choice: str | None, result: str | None) -> None:
    tools = [{"function": {"name": "f"}}]
    body = ChatRequest.model_validate({"messages": [], "tools": tools, "tool_choice": choice, "top_a": 1})
    warnings = [chat_warnings(body, RequestContext("r", 1, 1, knows_tools=knows)) for knows in (True, False)]
    unknown = "unknown fields are ignored: top_a"
    expected = f"the chat template of this model does not show it any tools; {result}"
    assert warnings == [(unknown,), (unknown,) if result is None else (unknown, expected)]


def test_unknown_fields_of_messages_are_named_once() -> None:
    answer = {"role": "assistant", "content": "a", "refusal": "", "annotations": [], "prompt_tokens": "p"}
    called = {"role": "assistant", "function_call": {"name": "f"}, "x": None}
    assert warned(messages=[{"role": "user", "content": "a"}, answer]) == ()
    assert warned(messages=[called, answer, called], top_a=1) == (
        "unknown fields are ignored: top_a, messages.function_call",
    )


def test_unknown_fields_of_other_objects_have_their_paths() -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": {"x": 1}, "y": 1}, "pattern": "a"}
    thinking = {"type": "enabled", "display": "omitted"}
    assert warned(messages=[], response_format=schema, thinking=thinking) == (
        "unknown fields are ignored: response_format.pattern, response_format.json_schema.y, thinking.display",
    )


def test_a_field_of_another_endpoint_is_unknown() -> None:
    body = CompletionRequest.model_validate({"prompt": "Hi", "enable_thinking": True, "function_call": "auto"})
    assert unknown_fields(body, UNSUPPORTED_IN_COMPLETIONS) == (
        "unknown fields are ignored: enable_thinking, function_call",
    )


@pytest.mark.parametrize("path", GENERATIONS)
def test_no_field_is_both_ignored_and_known(path: str) -> None:
    generation = GENERATIONS[path]
    assert not IGNORED.keys() & (generation.body.model_fields.keys() | generation.refused.keys())


@given(st.lists(st.text().filter(lambda name: name not in IGNORED), min_size=1))
def test_a_client_cannot_write_more_than_the_quoted_string(names: list[str]) -> None:
    class Body(BaseModel, extra="allow"):
        pass

    warnings = unknown_fields(Body.model_validate(dict.fromkeys(names, 1)), {})
    header = warning_header(warnings)["Warning"]
    assert HEADER.fullmatch(header)
    assert len(header) <= MAX_HEADER_CHARACTERS


def test_texts_are_joined_and_cut() -> None:
    assert warning_header(()) == {}
    assert warning_header(("a", 'b"\\\r\n\x00é')) == {"Warning": '299 - "a; b??????"'}
    header = warning_header(("x" * 1000,))["Warning"]
    assert len(header) == MAX_HEADER_CHARACTERS
    assert header.endswith('xxx..."')
