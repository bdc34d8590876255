"""Requests to the wire: the thinking switch, unsupported fields, message forms, prompt forms."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.unsupported import (
    UNSUPPORTED_IN_CHAT,
    UNSUPPORTED_IN_COMPLETIONS,
    refuse_unsupported,
)
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.thinking import resolve_thinking
from ernie_wire.errors import InvalidValue


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"enable_thinking": True}, True),
        ({"metadata": {"enable_thinking": False}}, False),
        ({"metadata": {"enable_thinking": "False"}}, False),
        ({"metadata": {"other": "x"}}, None),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False}, True),
        ({"enable_thinking": False, "metadata": {"enable_thinking": True}}, False),
        ({"metadata": {"enable_thinking": True}, "chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}, False),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "false"}}}, False),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "open"}}}, True),
        ({"chat_template_kwargs": {"options": {"thinking_mode": ""}}}, None),
        (
            {
                "metadata": {"enable_thinking": False},
                "chat_template_kwargs": {"options": {"thinking_mode": "open"}},
            },
            False,
        ),
    ],
)
def test_the_thinking_switch(fields: dict[str, Any], expected: bool | None) -> None:
    assert resolve_thinking(chat(**fields)) is expected
    wire = chat_to_wire(chat(**fields), "r")
    assert wire.messages is not None
    assert wire.messages["chat_template_kwargs"].get("enable_thinking") is expected


def test_tool_arguments_are_decoded_if_they_are_json() -> None:
    calls = [
        {"function": {"name": "a", "arguments": '{"x": 1}'}},
        {"function": {"name": "b", "arguments": {"x": 1}}},
        {"function": {"name": "c", "arguments": "{broken"}},
    ]
    wire = chat_to_wire(chat(messages=[{"role": "assistant", "tool_calls": calls}]), "r")
    assert wire.messages is not None
    [message] = wire.messages["messages"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [{"x": 1}, {"x": 1}, "{broken"]


def test_tools_go_along_unless_the_choice_is_none() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for choice, expected in ((None, tools), ("auto", tools), ("none", None)):
        wire = chat_to_wire(chat(tools=tools, tool_choice=choice), "r")
        assert wire.messages is not None
        assert wire.messages.get("tools") == expected


def test_a_tool_message_may_hold_one_part() -> None:
    wire = chat_to_wire(chat(messages=[{"role": "tool", "content": {"type": "text", "text": "23"}}]), "r")
    assert wire.messages is not None
    assert wire.messages["messages"] == [{"role": "tool", "content": "23"}]


@pytest.mark.parametrize("table", [UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS])
def test_every_unsupported_field_has_a_way_out(table: dict[str, tuple[object, ...]]) -> None:
    for name, neutral in table.items():
        refuse_unsupported({name: None}, table)
        for value in neutral:
            refuse_unsupported({name: value}, table)
        with pytest.raises(InvalidValue, match=f"^{name} is not supported yet") as caught:
            refuse_unsupported({name: "surely not neutral"}, table)
        assert caught.value.param == name


def test_unknown_fields_are_ignored() -> None:
    refuse_unsupported({"brand_new": 1}, UNSUPPORTED_IN_CHAT)


@pytest.mark.parametrize(("vocab_size", "token_id"), [(1000, 1000), (1000, -1), (None, 2**31), (0, 2**31)])
def test_token_ids_are_checked_at_the_edge(vocab_size: int | None, token_id: int) -> None:
    body = CompletionRequest.model_validate({"prompt": [1, token_id]})
    with pytest.raises(InvalidValue, match=str(token_id)):
        completion_to_wire(body, "r", vocab_size, 8)


def test_each_prompt_is_a_request_of_its_own() -> None:
    body = CompletionRequest.model_validate({"prompt": [[1, 999], [3]], "max_tokens": 4, "stream": True})
    wires = completion_to_wire(body, "r", 1000, 2)
    assert [wire.request_id for wire in wires] == ["r-0", "r-1"]
    assert [wire.input_ids for wire in wires] == [(1, 999), (3,)]
    assert all(wire.stream and wire.sampling.max_tokens == 4 for wire in wires)
    with pytest.raises(InvalidValue, match="at most 1"):
        completion_to_wire(body, "r", 1000, 1)
