"""Tools and structured output by the official client's own helpers, against the whole stack.

The embedded model cannot call tools by itself, so calls and answers are forced: by required and named tools,
and by schemas that leave a choice between short values.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

DEADLINE_S = 100.0


class City(enum.Enum):
    BEIJING = "Beijing"
    PARIS = "Paris"


class Stay(BaseModel):
    """Where a guest sleeps: a schema with a definition, numbers and a truth value."""

    city: City
    nights: Literal[1, 2]
    is_paid: bool


class GetWeather(BaseModel):
    city: City
    unit: Literal["c", "f"]


class GetTime(BaseModel):
    city: City


ARGUMENTS: dict[str, type[BaseModel]] = {"GetWeather": GetWeather, "GetTime": GetTime}
TOOLS: list[Any] = [openai.pydantic_function_tool(arguments) for arguments in ARGUMENTS.values()]
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
COMMON: dict[str, Any] = {"model": "ernie-tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 400}
ONE_CALL = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, **COMMON}


@pytest.fixture(scope="module")
def client(embedded_url: str) -> Iterator[openai.OpenAI]:
    url = f"{embedded_url}/v1"
    with openai.OpenAI(base_url=url, api_key="null", max_retries=0, timeout=DEADLINE_S) as opened:
        yield opened


def function(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def calls(message: Any) -> list[tuple[str, str]]:
    """Return (name, arguments) of the calls of a message without text; fails if one breaks its schema."""
    assert not message.content
    for call in message.tool_calls:
        assert call.type == "function"
        assert call.id
        ARGUMENTS[call.function.name].model_validate_json(call.function.arguments)
    return [(call.function.name, call.function.arguments) for call in message.tool_calls]


def test_parse_gives_the_model_of_a_response_format(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.parse(response_format=Stay, **COMMON).choices
    assert isinstance(choice.message.parsed, Stay)
    assert choice.finish_reason == "stop"
    with client.chat.completions.stream(response_format=Stay, **COMMON) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert (streamed.parsed, streamed.content) == (choice.message.parsed, choice.message.content)


def test_parse_gives_the_arguments_of_a_required_tool(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.parse(**ONE_CALL).choices
    assert choice.finish_reason == "tool_calls"
    ((name, _),) = calls(choice.message)
    assert choice.message.tool_calls
    assert isinstance(choice.message.tool_calls[0].function.parsed_arguments, ARGUMENTS[name])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_named_tool(client: openai.OpenAI, name: str) -> None:
    (choice,) = client.chat.completions.create(tools=TOOLS, tool_choice=function(name), **COMMON).choices
    assert [called for called, _ in calls(choice.message)] == [name]


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_text_where_no_call_is_forced(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(tools=TOOLS, tool_choice=choice, **COMMON).choices[0]
    assert answer.message.content == "The capital of France is Paris."
    assert answer.message.tool_calls is None
    assert answer.finish_reason == "stop"


def test_a_streamed_call_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = calls(client.chat.completions.create(**ONE_CALL).choices[0].message)
    with client.chat.completions.stream(**ONE_CALL) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_completion().choices[0]
    assert calls(final.message) == whole
    assert final.finish_reason == "tool_calls"
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.name, event.arguments) for event in done] == whole
    assert all(isinstance(event.parsed_arguments, ARGUMENTS[event.name]) for event in done)


def test_id_and_name_come_once_and_arguments_in_pieces(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ONE_CALL)
    chunks: list[Any] = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert [] not in [choice.delta.tool_calls for choice in choices]
    first, *rest = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert (first.index, first.type) == (0, "function")
    assert first.id
    assert rest
    assert {(call.index, call.id, call.function.name) for call in rest} == {(0, None, None)}
    pieces = [call.function.arguments or "" for call in (first, *rest)]
    ARGUMENTS[first.function.name].model_validate_json("".join(pieces))
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]
    assert chunks[-1].usage.completion_tokens > 0


def test_several_answers_with_a_forced_tool(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(n=3, seed=1, **{**ONE_CALL, "temperature": 1.0})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or ()]
    assert [len(calls(choice.message)) for choice in answer.choices] == [1, 1, 1]
    assert len(set(ids)) == 3


def test_a_call_that_is_cut_is_an_error_of_the_helper(client: openai.OpenAI) -> None:
    cut = {**ONE_CALL, "max_tokens": 3}
    (choice,) = client.chat.completions.create(**cut).choices
    assert choice.finish_reason == "length"
    assert not choice.message.tool_calls
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**cut)


def test_results_of_tools_go_back(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(**ONE_CALL).choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It is sunny."}
    conversation = [*QUESTION, message, result]
    answer = client.chat.completions.create(tools=TOOLS, **{**COMMON, "messages": conversation})
    assert answer.usage
    assert answer.usage.completion_tokens > 0
    assert answer.choices[0].message.role == "assistant"


BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": function("no_such_tool")}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"description": "no name"}}]}, "tools"),
        ({"response_format": BAD_SCHEMA}, "response_format"),
    ],
    ids=["no tools", "unknown tool", "no name", "schema"],
)
def test_a_wrong_definition_is_refused(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**COMMON, **fields)
    assert refused.value.param == param
    assert param in refused.value.message
