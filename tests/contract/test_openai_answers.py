"""Answers with reasoning and tool calls, whole and streamed, as official clients read them."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from fakes.triton_grpc import FakeTriton, ready_model, tell
from support import http

pytest_plugins = ("support.frontend_server",)

URL = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
TOOLS = {**CHAT, "tools": [TOOL]}
CALL_ID = re.compile(r"chatcmpl-tool-[0-9a-f]{32}")
X1, VL_THINKING, VL = "ernie-x1", "ernie-45-vl-thinking", "ernie-45-vl"

THOUGHTS = ("So", "\n", "«/think»", "\n\n\n")
RESPONSE = ("«response»", "\n", "Bei", "jing", "\n", "«/response»", "\n")
ARGUMENTS = '{"location": "北京", "unit": "C"}'
CALL = (
    "«tool_call»",
    "\n",
    '{"name": "get_',
    'weather", "arg',
    'uments": {"loc',
    'ation": "北',
    '京", "unit": "C"}}',
)
CALL_END = ("\n", "«/tool_call»", "\n")


@pytest.fixture
def client(frontend: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0)


def answer_with(
    triton: FakeTriton,
    parser: str | None,
    *pieces: str,
    reason: str = "stop",
    tag: str = "<think>",
    tools: bool = True,
) -> None:
    """Let a model with this parser, for tools too if it has them, answer with pieces."""
    model = ready_model(reasoning_parser=parser, tool_call_parser=parser if tools else None, knows_tools=True)
    triton.models = {"ernie-tiny": model}
    triton.answer = partial(tell, pieces=pieces, reason=reason, prompt_tag=tag)


def deltas(frontend: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the deltas of a stream without those of opening and end."""
    answer = http.post(f"{frontend}{URL}", json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    *events, done = answer.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert [choice["delta"].get("role") for choice in choices] == ["assistant", *[None] * (len(choices) - 1)]
    assert all({"content", "reasoning_content"} <= choice["delta"].keys() for choice in choices)
    assert all(choice["delta"].get("tool_calls") != [] for choice in choices)
    return [choice["delta"] for choice in choices[1:-1]]


def test_reasoning_in_deltas(frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *RESPONSE)
    assert deltas(frontend, CHAT) == [
        {"content": "", "reasoning_content": "So"},
        {"content": "Bei", "reasoning_content": None},
        {"content": "jing", "reasoning_content": None},
    ]


def test_a_call_in_deltas(frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *CALL, *CALL_END)
    first, begin, *fragments = deltas(frontend, TOOLS)
    assert first == {"content": "", "reasoning_content": "So"}
    (call,) = begin.pop("tool_calls")
    assert begin == {"content": "", "reasoning_content": None}
    assert CALL_ID.fullmatch(call.pop("id"))
    assert call == {"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    for text, fragment in zip(['{"loc', 'ation": "北', '京", "unit": "C"}'], fragments, strict=True):
        (call,) = fragment["tool_calls"]
        assert call == {"index": 0, "function": {"arguments": text}}


def whole_and_streamed(client: openai.OpenAI, **body: Any) -> list[ChatCompletion]:
    """Return the answer as the official client reads it, whole and assembled from a stream."""
    body = {"model": "default", "extra_body": {}, **body}
    whole = client.chat.completions.create(**body)
    with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
        streamed = stream.get_final_completion()
    return [whole, streamed]


def calls_of(message: ChatCompletionMessage) -> list[tuple[str, str]]:
    calls = message.tool_calls or []
    assert all(call.type == "function" and CALL_ID.fullmatch(call.id) for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    return [(call.function.name, call.function.arguments) for call in calls if call.type == "function"]


def test_a_call_for_the_official_client(client: openai.OpenAI, triton: FakeTriton) -> None:
    second = ("«tool_call»", '{"arguments": {}, ', '"name": "now"}', "«/tool_call»")
    answer_with(triton, VL_THINKING, *THOUGHTS, *CALL, *CALL_END, *second)
    for answer in whole_and_streamed(client, **TOOLS):
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert calls_of(choice.message) == [("get_weather", ARGUMENTS), ("now", "{}")]
        assert choice.message.content in (None, "")
        assert getattr(choice.message, "reasoning_content") == "So"  # noqa: B009  not a field of the class
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 3
        assert answer.usage.completion_tokens == len(THOUGHTS) + len(CALL) + len(CALL_END) + len(second)
    whole = client.chat.completions.create(model="default", **TOOLS)
    assert whole.choices[0].message.content is None


def test_reasoning_for_the_official_client(client: openai.OpenAI, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *RESPONSE)
    for answer in whole_and_streamed(client, **CHAT):
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("stop", "Beijing")
        assert not choice.message.tool_calls
        assert choice.message.to_dict()["reasoning_content"] == "So"


def test_a_cut_call_is_not_in_a_whole_answer(client: openai.OpenAI, frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *CALL, *CALL_END, *CALL[:-1], reason="length")
    raw = "".join(CALL[:-1]).replace("«", "<").replace("»", ">")
    whole = http.post(f"{frontend}{URL}", json=TOOLS).json()["choices"][0]
    assert whole["finish_reason"] == "length"
    assert [call["function"]["arguments"] for call in whole["message"]["tool_calls"]] == [ARGUMENTS]
    assert whole["message"]["content"] == raw
    sent = deltas(frontend, TOOLS)
    assert "".join(delta["content"] for delta in sent) == raw
    assert {call["index"] for delta in sent for call in delta.get("tool_calls", ())} == {0, 1}
    with pytest.raises(openai.LengthFinishReasonError):
        whole_and_streamed(client, **TOOLS)


@pytest.mark.parametrize("choice", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
def test_calls_are_text_if_tools_are_not_requested(
    frontend: str, triton: FakeTriton, choice: dict[str, Any]
) -> None:
    answer_with(triton, X1, *THOUGHTS, *CALL, *CALL_END)
    answer = http.post(f"{frontend}{URL}", json={**TOOLS, **choice}).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert answer["message"]["tool_calls"] is None
    assert answer["message"]["content"].startswith("<tool_call>")
    assert not any("tool_calls" in delta for delta in deltas(frontend, {**TOOLS, **choice}))


FORCED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", FORCED])
def test_a_forced_call_of_a_model_without_tool_tokens(
    client: openai.OpenAI, triton: FakeTriton, choice: Any
) -> None:
    answer_with(triton, VL, "So", "«/think»", "[", *CALL[2:], "]", tools=False)
    for answer in whole_and_streamed(client, **TOOLS, tool_choice=choice):
        assert answer.choices[0].finish_reason == "tool_calls"
        assert calls_of(answer.choices[0].message) == [("get_weather", ARGUMENTS)]
    for answer in whole_and_streamed(client, **TOOLS, tool_choice="auto"):
        assert (answer.choices[0].message.content or "").startswith('[{"name"')


def test_log_probabilities_are_those_of_the_tokens(client: openai.OpenAI, triton: FakeTriton) -> None:
    """Also of those whose text is held back or is a tag."""
    pieces = (*THOUGHTS, *CALL, *CALL_END)
    answer_with(triton, X1, *pieces)
    for answer in whole_and_streamed(client, **TOOLS, logprobs=True):
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        texts = [entry.token for entry in logprobs.content]
        assert texts == [piece.replace("«", "<").replace("»", ">") for piece in pieces]
        assert calls_of(answer.choices[0].message) == [("get_weather", ARGUMENTS)]


def test_token_ids_and_raw_text(frontend: str, triton: FakeTriton) -> None:
    pieces = (*THOUGHTS, *CALL, *CALL_END)
    raw = "".join(pieces).replace("«", "<").replace("»", ">")
    answer_with(triton, X1, *pieces)
    body = {**TOOLS, "return_token_ids": True}
    message = http.post(f"{frontend}{URL}", json=body).json()["choices"][0]["message"]
    assert message["completion_tokens"] == raw
    assert message["completion_token_ids"] == list(range(100, 100 + len(pieces)))
    sent = deltas(frontend, body)
    assert "".join(delta.get("completion_tokens", "") for delta in sent) == raw
    ids = [token_id for delta in sent for token_id in delta.get("completion_token_ids", ())]
    assert ids == message["completion_token_ids"]


def test_many_tokens_in_a_chunk(frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *CALL, *CALL_END)
    sent = deltas(frontend, {**TOOLS, "max_streaming_response_tokens": 100})
    assert [delta["reasoning_content"] for delta in sent] == ["So", None, None]
    assert [call["function"]["arguments"] for delta in sent[1:] for call in delta["tool_calls"]] == [
        "",
        ARGUMENTS,
    ]


def test_several_answers_are_parsed_apart(client: openai.OpenAI, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *CALL, *CALL_END)
    for answer in whole_and_streamed(client, **TOOLS, n=3):
        assert [calls_of(choice.message) for choice in answer.choices] == [[("get_weather", ARGUMENTS)]] * 3
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 9


def test_an_answer_that_continues_a_message(frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, "\n", "more", "\n", "«/response»", tag="")
    body = {
        "messages": [*CHAT["messages"], {"role": "assistant", "content": "Some"}],
        "continue_final_message": True,
    }
    assert http.post(f"{frontend}{URL}", json=body).json()["choices"][0]["message"]["content"] == "\nmore"
    assert "".join(delta["content"] for delta in deltas(frontend, body)) == "\nmore"


def test_completions_are_not_parsed(frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *RESPONSE)
    answer = http.post(f"{frontend}/v1/completions", json={"prompt": "Hi"}).json()
    assert answer["choices"][0]["text"].startswith("So\n</think>")


def test_an_engine_that_was_starting_when_the_request_came(frontend: str, triton: FakeTriton) -> None:
    answer_with(triton, X1, *THOUGHTS, *RESPONSE)
    ready, starting = triton.models, {"state": "starting", "detail": "", "generation": 0, "engine": None}

    async def answer(inference: Any) -> Any:
        triton.models = ready
        async for response in tell(inference, (*THOUGHTS, *RESPONSE), prompt_tag="<think>"):
            yield response

    triton.answer = answer
    triton.models = {"ernie-tiny": starting}
    assert deltas(frontend, CHAT)[0]["reasoning_content"] == "So"
    triton.models = {"ernie-tiny": starting}
    message = http.post(f"{frontend}{URL}", json=CHAT).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("So", "Beijing")
