"""Requests to the wire: the thinking switch, unsupported fields, message forms, prompt forms."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_frontend.errors import error_response
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.unsupported import (
    UNSUPPORTED_IN_CHAT,
    UNSUPPORTED_IN_COMPLETIONS,
    Refusal,
    refuse_unsupported,
)
from ernie_frontend.translate import chat_request
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.thinking import resolve_thinking
from ernie_wire.errors import InvalidValue, QueueFull


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
    [wire] = chat_to_wire(chat(**fields), "r", 1000, 8)
    assert wire.messages is not None
    assert wire.messages["chat_template_kwargs"].get("enable_thinking") is expected


def test_tool_calls_go_on_as_they_came_whatever_their_arguments_hold() -> None:
    calls = [
        {"function": {"name": "a", "arguments": '{"x": 1}'}},
        {"function": {"name": "b", "arguments": {"x": 1}}},
        {"function": {"name": "c", "arguments": "[" * 100_000}},
    ]
    [wire] = chat_to_wire(chat(messages=[{"role": "assistant", "tool_calls": calls}]), "r", 1000, 8)
    assert wire.messages is not None
    [message] = wire.messages["messages"]
    assert message["tool_calls"] == calls


def test_tools_go_along_unless_the_choice_is_none() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for choice, expected in ((None, tools), ("auto", tools), ("none", None)):
        [wire] = chat_to_wire(chat(tools=tools, tool_choice=choice), "r", 1000, 8)
        assert wire.messages is not None
        assert wire.messages.get("tools") == expected


def test_a_tool_message_may_hold_one_part() -> None:
    [wire] = chat_to_wire(
        chat(messages=[{"role": "tool", "content": {"type": "text", "text": "23"}}]), "r", 1000, 8
    )
    assert wire.messages is not None
    assert wire.messages["messages"] == [{"role": "tool", "content": "23"}]


@pytest.mark.parametrize("table", [UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS])
def test_every_unsupported_field_has_a_reason_and_a_way_out(table: dict[str, Refusal]) -> None:
    for name, refusal in table.items():
        refuse_unsupported({name: None}, table)
        for value in refusal.neutral:
            refuse_unsupported({name: value}, table)
        with pytest.raises(InvalidValue, match=f"^{name} is refused: .*leave it out") as caught:
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


def test_several_answers_count_the_seed_on() -> None:
    wires = chat_to_wire(chat(n=3, seed=2**63 - 2), "r", 1000, 3)
    assert [wire.request_id for wire in wires] == ["r-0", "r-1", "r-2"]
    assert [wire.sampling.seed for wire in wires] == [2**63 - 2, 2**63 - 1, 0]
    assert [wire.sampling.seed for wire in chat_to_wire(chat(n=2), "r", 1000, 3)] == [None, None]
    body = CompletionRequest.model_validate({"prompt": ["a", "b"], "n": 2, "seed": 5})
    wires = completion_to_wire(body, "r", 1000, 8)
    assert [wire.text_input for wire in wires] == ["a", "a", "b", "b"]
    assert [wire.sampling.seed for wire in wires] == [5, 6, 5, 6]


def test_prompts_of_token_ids() -> None:
    forms: tuple[dict[str, Any], ...] = (
        {"messages": [5, 6]},
        {"prompt_token_ids": [5, 6]},
        {"messages": [], "prompt_token_ids": [5, 6]},
    )
    for fields in forms:
        [wire] = chat_to_wire(ChatRequest.model_validate(fields), "r", 1000, 1)
        assert (wire.input_ids, wire.messages) == ((5, 6), None)
    [wire] = chat_to_wire(chat(prompt_token_ids=[5, 6], completion_token_ids=[7]), "r", 1000, 1)
    assert wire.input_ids == (5, 6, 7)
    forms = ({"prompt": [1]}, {"prompt": "x", "prompt_token_ids": [1]}, {"prompt_token_ids": [1]})
    for fields in forms:
        body = CompletionRequest.model_validate({**fields, "completion_token_ids": [2, 3]})
        [wire] = completion_to_wire(body, "r", 1000, 1)
        assert wire.input_ids == (1, 2, 3)


def test_no_template() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "as it stands"}]}]
    [wire] = chat_to_wire(chat(messages=messages, disable_chat_template=True), "r", 1000, 1)
    assert (wire.text_input, wire.messages) == ("as it stands", None)


@pytest.mark.parametrize(
    ("fields", "logprobs", "prompt_logprobs"),
    [
        ({}, None, None),
        ({"logprobs": 3}, 3, None),
        ({"best_of": 2}, 0, None),
        ({"best_of": 2, "logprobs": 3}, 3, None),
        ({"n": 2, "best_of": 2}, None, None),
        ({"echo": True}, None, None),
        ({"echo": True, "logprobs": 3}, 3, 3),
        ({"echo": True, "logprobs": 3, "prompt_logprobs": 5}, 3, 5),
        ({"echo": True, "logprobs": 3, "prompt_logprobs": 1}, 3, 3),
        ({"logprobs": 3, "prompt_logprobs": 0}, 3, 0),
    ],
)
def test_which_log_probabilities_the_engine_is_asked_for(
    fields: dict[str, Any], logprobs: int | None, prompt_logprobs: int | None
) -> None:
    body = CompletionRequest.model_validate({"prompt": "a", **fields})
    wire = completion_to_wire(body, "r", 1000, 8)[0]
    assert (wire.sampling.logprobs, wire.sampling.prompt_logprobs) == (logprobs, prompt_logprobs)
    assert wire.return_prompt is ("echo" in fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metadata": {"temperature": 0.5}}, 0.5),
        ({"temperature": None, "metadata": {"temperature": 0.5}}, 0.5),
        ({"temperature": 0.25, "metadata": {"temperature": 0.5}}, 0.25),
        ({"metadata": {"temperature": "0.5"}}, None),  # OpenAI's metadata: strings that mean nothing to us
    ],
)
def test_metadata_carries_fields(fields: dict[str, Any], expected: float | None) -> None:
    assert chat(**fields).temperature == expected
    body = CompletionRequest.model_validate({"prompt": "a", **fields})
    assert body.temperature == expected


def test_metadata_does_not_carry_the_prompt() -> None:
    body = chat(metadata={"messages": [], "prompt": ["x"], "stream": True, "model": ["x"]})
    assert (len(body.messages or ()), body.stream, body.model) == (1, None, None)


def test_tools_are_accepted_with_one_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    chat_request._warn_of_tools.cache_clear()
    for _ in range(2):
        chat_to_wire(chat(tools=[{"type": "function", "function": {"name": "f"}}]), "r", 1000, 8)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "calls in answers stay text" in caplog.text


def test_a_full_queue_says_when_to_come_again() -> None:
    response = error_response(QueueFull("the queue holds 512 requests; retry after 7 s"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
