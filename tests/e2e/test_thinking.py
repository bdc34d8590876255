"""Thinking through the whole stack; the weights are random, so a bias chooses what the model says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ernie_backend.chat.tokenizer import Tokenizer
from support.paths import DENSE
from support.serving import FLAGS, Serving
from support.thinking_model import thinking_model

(A,) = Tokenizer.from_directory(DENSE).encode("a")
ONLY_A: dict[str, Any] = {"logit_bias": {str(A): 100}, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    directory = thinking_model(tmp_path_factory.mktemp("models") / "vl", "ernie-45-vl-thinking")
    serving = Serving("serve", *FLAGS[2:], "--model", str(directory))
    try:
        with openai.OpenAI(base_url=f"{serving.wait_until_ready()}/v1", api_key="x", max_retries=0) as opened:
            yield opened
    finally:
        serving.close()


def ask(client: openai.OpenAI, extra: dict[str, Any], **fields: Any) -> Any:
    """Return the answer to a question."""
    asked = {**ONLY_A, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return client.chat.completions.create(model="default", extra_body=extra, **asked)


def test_thinking_ends_at_its_limit(client: openai.OpenAI) -> None:
    answer = ask(client, {"reasoning_max_tokens": 5})
    [choice] = answer.choices
    assert (choice.message.reasoning_content, choice.message.content) == ("a" * 5, "a" * 6)
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.completion_tokens_details.reasoning_tokens == 6


def test_so_it_does_in_a_stream(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    *chunks, last = ask(client, {"reasoning_max_tokens": 5}, stream=True, stream_options=options)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.reasoning_content or "" for delta in deltas) == "a" * 5
    assert "".join(delta.content or "" for delta in deltas) == "a" * 6
    assert last.usage.completion_tokens_details.reasoning_tokens == 6


@pytest.mark.parametrize(
    ("extra", "num_reasoning"),
    [
        ({"enable_thinking": False}, 0),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}, 0),
        ({"metadata": {"enable_thinking": False}}, 0),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "low"}, 3),
        ({"logits_processors_args": {"thinking_budget": 1}}, 2),
        ({}, 10),
        ({"reasoning_max_tokens": 2, "response_max_tokens": 3}, 3),
    ],
)
def test_a_request_switches_and_limits_thinking(
    client: openai.OpenAI, extra: dict[str, Any], num_reasoning: int
) -> None:
    answer = ask(client, extra)
    message = answer.choices[0].message
    assert answer.usage.completion_tokens_details.reasoning_tokens == num_reasoning
    assert message.reasoning_content == ("a" * (num_reasoning - 1) if num_reasoning else None)
    assert message.content == "a" * (3 if "response_max_tokens" in extra else 12 - num_reasoning)


def test_the_answer_alone_has_to_be_what_a_schema_says(client: openai.OpenAI) -> None:
    answer = ask(client, {"reasoning_max_tokens": 3, "guided_choice": ["yes", "no"]}, max_tokens=50)
    message = answer.choices[0].message
    assert message.reasoning_content == "aaa"
    assert message.content in ("yes", "no")
    assert answer.choices[0].finish_reason == "stop"


def test_a_forced_call_follows_thinking(client: openai.OpenAI) -> None:
    parameters = {"properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}]
    forced = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    answer = ask(client, {"reasoning_max_tokens": 3}, **forced)
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert (choice.message.reasoning_content, choice.finish_reason) == ("aaa", "tool_calls")
    assert (call.function.name, json.loads(call.function.arguments)) == ("f", {"a": 1})
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4


def test_an_earlier_answer_keeps_its_thinking(client: openai.OpenAI) -> None:
    earlier = {"role": "assistant", "content": "b", "reasoning_content": "c"}
    question = {"role": "user", "content": "Hi"}
    answer = ask(client, {"return_token_ids": True}, messages=[question, earlier, question])
    assert "Assistant:\n<think>\nc\n</think>\n\nb<|end_of_sentence|>" in answer.choices[0].message.prompt_tokens
