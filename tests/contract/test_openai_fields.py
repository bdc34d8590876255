"""Every field beyond the plain ones: several answers, echo, log probabilities, and what is sent on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import openai
import pytest

from ernie_wire.sampling import SamplingParameters
from fakes.triton_grpc import PROMPT, FakeTriton, Inference, Response, logprobs_of, tell
from support import http

pytest_plugins = ("support.frontend_server",)

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PROMPT_TEXT = "".join(PROMPT)


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(f"{url}{path}", json=body)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def stream(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the decoded events before ``[DONE]``."""
    answer = http.post(f"{url}{path}", json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def tell_own_number(inference: Inference) -> AsyncIterator[Response]:
    async for response in tell(inference, (inference.inputs["request_id"].rsplit("-", 1)[1], "!")):
        yield response


def test_several_chat_answers(frontend: str, triton: FakeTriton) -> None:
    triton.answer = tell_own_number
    answer = post(frontend, "/v1/chat/completions", {**CHAT, "n": 3, "seed": 40})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["0!", "1!", "2!"]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 6)
    assert sorted(inference.sampling["seed"] for inference in triton.inferences) == [40, 41, 42]


def test_several_chat_answers_streamed(frontend: str, triton: FakeTriton) -> None:
    triton.answer = tell_own_number
    events = stream(
        frontend, "/v1/chat/completions", {**CHAT, "n": 2, "stream_options": {"include_usage": True}}
    )
    deltas: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for event in events[:-1]:
        [choice] = event["choices"]
        deltas[choice["index"]].append(choice["delta"])
    for index, parts in deltas.items():
        assert [part.get("role") for part in parts] == ["assistant", None, None, None]
        assert "".join(part["content"] for part in parts) == f"{index}!"
    assert (events[-1]["usage"]["prompt_tokens"], events[-1]["usage"]["completion_tokens"]) == (7, 4)


def test_the_stream_helper_of_the_official_client(frontend: str, triton: FakeTriton) -> None:
    """It finds choices by their place, so they open in order, although the last one answers first."""
    has_answered = [asyncio.Event() for _ in range(4)]

    async def tell_backwards(inference: Inference) -> AsyncIterator[Response]:
        number = int(inference.inputs["request_id"].rsplit("-", 1)[1])
        for later in has_answered[number + 1 :]:
            await later.wait()
        async for response in tell_own_number(inference):
            yield response
        has_answered[number].set()

    triton.answer = tell_backwards
    client = openai.OpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0, timeout=20)
    with client.chat.completions.stream(
        model="null", messages=[{"role": "user", "content": "Hi"}], n=4
    ) as answer:
        first = [event.chunk.choices[0].index for event in answer if event.type == "chunk"][4]
        whole = answer.get_final_completion()
    assert first == 3
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.message.content for choice in whole.choices] == ["0!", "1!", "2!", "3!"]
    assert {choice.finish_reason for choice in whole.choices} == {"stop"}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_choice_index_is_prompt_times_n(frontend: str, triton: FakeTriton, is_streamed: bool) -> None:
    async def tell_prompt(inference: Inference) -> AsyncIterator[Response]:
        text = f"{inference.inputs['text_input']}{inference.sampling['seed']}"
        async for response in tell(inference, (text,)):
            yield response

    triton.answer = tell_prompt
    body: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "seed": 0}
    texts = ["", "", "", ""]
    events = (stream if is_streamed else lambda *asked: [post(*asked)])(frontend, "/v1/completions", body)
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["a0", "a1", "b0", "b1"]


def test_best_of(frontend: str, triton: FakeTriton) -> None:
    """Answer 1 is the most likely per token, then 2; all tokens count."""

    async def tell_with_likelihood(inference: Inference) -> AsyncIterator[Response]:
        number = inference.inputs["request_id"].rsplit("-", 1)[1]
        async for response in tell(inference, (number, "!")):
            assert isinstance(response, dict)
            entries = json.loads(response["logprobs"])
            for entry in entries:
                entry["logprob"] = {"0": -3.0, "1": -0.5, "2": -1.0}[number]
            yield response | {"logprobs": json.dumps(entries)}

    triton.answer = tell_with_likelihood
    answer = post(frontend, "/v1/completions", {"prompt": "Hi", "best_of": 3, "n": 2})
    assert [(choice["index"], choice["text"], choice["logprobs"]) for choice in answer["choices"]] == [
        (0, "1!", None),
        (1, "2!", None),
    ]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 6)


def test_chat_logprobs(frontend: str, triton: FakeTriton) -> None:
    client = openai.OpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0)
    answer = client.chat.completions.create(
        model="null", messages=[{"role": "user", "content": "Hi"}], logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(entry.token, entry.logprob) for entry in logprobs.content] == [
        ("Bei", -0.125),
        ("jing", -0.25),
        (".", -0.375),
    ]
    assert [each.token for each in logprobs.content[0].top_logprobs] == ["Bei", "~0"]
    assert triton.inferences[0].sampling["logprobs"] == 2

    parts = stream(frontend, "/v1/chat/completions", {**CHAT, "logprobs": True})
    streamed = [part["choices"][0]["logprobs"] for part in parts]
    assert (streamed[0], streamed[-1]) == (None, None)
    assert [entry["token"] for part in streamed[1:-1] for entry in part["content"]] == ["Bei", "jing", "."]
    assert [part["content"][0]["top_logprobs"] for part in streamed[1:-1]] == [[], [], []]


def test_bytes_that_are_no_text_come_with_the_logprobs(frontend: str, triton: FakeTriton) -> None:
    """Half a character has no text yet; its token's log probability is sent all the same."""

    async def halves(inference: Inference) -> AsyncIterator[Response]:
        entries = logprobs_of((b"\xe4\xb8", b"\xad"), 100, 0)
        counts = {"num_input_tokens": 7, "num_output_tokens": 1}
        yield {"text_output": "", "finish_reason": "", "logprobs": json.dumps(entries[:1]), **counts}
        yield {"text_output": "中", "finish_reason": "stop", "logprobs": json.dumps(entries[1:]), **counts}

    triton.answer = halves
    parts = stream(frontend, "/v1/chat/completions", {**CHAT, "logprobs": True})
    tokens = [part["choices"][0]["logprobs"]["content"][0] for part in parts[1:-1]]
    assert [(token["token"], token["bytes"]) for token in tokens] == [
        ("bytes:\\xe4\\xb8", [0xE4, 0xB8]),
        ("bytes:\\xad", [0xAD]),
    ]


def test_completions_logprobs(frontend: str, triton: FakeTriton) -> None:
    expected = {
        "tokens": ["Bei", "jing", "."],
        "token_logprobs": [-0.125, -0.25, -0.375],
        "top_logprobs": [{"Bei": -0.125}, {"jing": -0.25}, {".": -0.375}],
        "text_offset": [0, 3, 7],
    }
    body = {"prompt": "Hi", "logprobs": 1}
    assert post(frontend, "/v1/completions", body)["choices"][0]["logprobs"] == expected
    parts = [part["choices"][0]["logprobs"] for part in stream(frontend, "/v1/completions", body)[:-1]]
    assert {name: [part[name][0] for part in parts] for name in expected} == expected


def test_echo(frontend: str, triton: FakeTriton) -> None:
    answer = post(frontend, "/v1/completions", {"prompt": "Hi", "echo": True})
    [choice] = answer["choices"]
    assert choice == {"index": 0, "text": f"{PROMPT_TEXT}Beijing.", "logprobs": None, "finish_reason": "stop"}
    texts = [
        event["choices"][0]["text"]
        for event in stream(frontend, "/v1/completions", {"prompt": "Hi", "echo": True})
    ]
    assert texts == [PROMPT_TEXT, "Bei", "jing", ".", ""]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_echo_with_logprobs_of_the_prompt_alone(frontend: str, triton: FakeTriton, is_streamed: bool) -> None:
    """What evaluation harnesses send: no new token, the prompt's log probabilities."""
    body = {"prompt": [1, 2, 3], "echo": True, "max_tokens": 0, "logprobs": 1}
    if is_streamed:
        opening, *_, finish = stream(frontend, "/v1/completions", body)
        choice = {**opening["choices"][0], "finish_reason": finish["choices"][0]["finish_reason"]}
    else:
        answer = post(frontend, "/v1/completions", body)
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 0)
        [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT_TEXT, "length")
    assert choice["logprobs"]["tokens"] == list(PROMPT)
    assert choice["logprobs"]["token_logprobs"] == [None, -0.25, -0.375, -0.5, -0.625, -0.75, -0.875]
    assert choice["logprobs"]["top_logprobs"][:2] == [None, {": ": -0.25}]
    assert choice["logprobs"]["text_offset"] == [0, 4, 6, 7, 8, 9, 10]
    assert triton.inferences[0].sampling["max_tokens"] == 0


@pytest.mark.parametrize(
    ("path", "prompt"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "Hi"})]
)
def test_prompt_logprobs(frontend: str, triton: FakeTriton, path: str, prompt: dict[str, Any]) -> None:
    whole = post(frontend, path, {**prompt, "prompt_logprobs": 1})["choices"][0]
    first = stream(frontend, path, {**prompt, "prompt_logprobs": 1})[0]["choices"][0]
    for choice in (whole, first):
        assert len(choice["prompt_logprobs"]) == len(PROMPT)
        assert choice["prompt_logprobs"][:2] == [
            None,
            {"2": {"logprob": -0.25, "rank": 1, "decoded_token": ": "}},
        ]
        assert choice["logprobs"] is None
    assert "prompt_logprobs" not in post(frontend, path, prompt)["choices"][0]


@pytest.mark.parametrize(
    ("size", "texts"), [(1, ["Bei", "jing", "."]), (2, ["Beijing", "."]), (9, ["Beijing."])]
)
def test_joined_stream_tokens(frontend: str, triton: FakeTriton, size: int, texts: list[str]) -> None:
    body = {**CHAT, "max_streaming_response_tokens": size, "return_token_ids": True}
    events = stream(frontend, "/v1/chat/completions", body)
    assert [event["choices"][0]["delta"]["content"] for event in events[1:-1]] == texts
    ids = [number for event in events[1:-1] for number in event["choices"][0]["delta"]["completion_token_ids"]]
    assert ids == [100, 101, 102]
    assert all(len(event["choices"]) == 1 for event in events)


def test_the_user_is_in_the_id(frontend: str, triton: FakeTriton) -> None:
    for path, prefix in (("/v1/chat/completions", "chatcmpl"), ("/v1/completions", "cmpl")):
        answer = post(frontend, path, {**CHAT, "prompt": "Hi", "user": "Ann B./" + "x" * 100})
        assert answer["id"].startswith(f"{prefix}-Ann_B._xxx")
        assert len(answer["id"]) == len(prefix) + 1 + 64 + 1 + 32


def test_all_sampling_fields_go_to_the_engine(frontend: str, triton: FakeTriton) -> None:
    sampling: dict[str, Any] = {
        "max_tokens": 5,
        "min_tokens": 2,
        "reasoning_max_tokens": 6,
        "response_max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 3,
        "seed": 4,
        "stop": ["end"],
        "ignore_eos": True,
        "prompt_logprobs": 1,
        "truncate_prompt_tokens": 100,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "frequency_penalty": -0.5,
        "presence_penalty": 2.0,
        "logit_bias": {"5": -100, "6": 1.5},
        "allowed_token_ids": [4, 9, 11],
        "bad_words": ["no"],
        "bad_words_token_ids": [9],
        "stop_token_ids": [8],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "structured_outputs": {"json": {"type": "object"}},
        "repetition_detection": {"max_pattern_size": 64, "min_count": 8},
    }
    assert sampling.keys() == {field.name for field in fields(SamplingParameters)} - {"logprobs"}, (
        "whose form differs"
    )
    for path in ("/v1/chat/completions", "/v1/completions"):
        post(frontend, path, {**CHAT, "prompt": "Hi", **sampling, "priority": -3})
    assert len(triton.inferences) == 2
    for inference in triton.inferences:
        assert inference.sampling == sampling
        assert inference.inputs["priority"] == [-3]


def test_the_prefix_cache_is_shared_by_one_key_and_one_salt_only(
    run_frontend: Callable[..., AbstractContextManager[str]], triton: FakeTriton
) -> None:
    requests = [("one", None), ("one", "red"), ("two", None), ("two", "red"), ("one", None)]
    with run_frontend(triton.url, api_keys=("one", "two")) as url:
        for path in ("/v1/chat/completions", "/v1/completions"):
            for key, salt in requests:
                body = {**CHAT, "prompt": "Hi", "cache_salt": salt}
                headers = {"Authorization": f"Bearer {key}"}
                answer = http.post(f"{url}{path}", json=body, headers=headers)
                assert answer.status_code == 200, answer.text
    salts = [inference.inputs["cache_salt"] for inference in triton.inferences]
    assert salts[:5] == salts[5:]
    assert salts[4] == salts[0]
    assert len(set(salts[:4])) == 4
    assert not any("one" in salt or "two" in salt for salt in salts), "a key goes no further"


def test_metadata_is_a_way_for_fields(frontend: str, triton: FakeTriton) -> None:
    post(
        frontend,
        "/v1/chat/completions",
        {**CHAT, "top_k": 2, "metadata": {"top_k": 5, "min_p": 0.5, "tag": "x"}},
    )
    assert triton.inferences[0].sampling == {"top_k": 2, "min_p": 0.5}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_unknown_fields_are_named_in_a_header(frontend: str, triton: FakeTriton, is_streamed: bool) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        prompt = CHAT if "chat" in path else {"prompt": "Hi"}
        body = {**prompt, "stream": is_streamed, "store": False}
        assert "warning" not in http.post(f"{frontend}{path}", json=body | {"x": None}).headers
        answer = http.post(f"{frontend}{path}", json=body | {'x"\r\nSet-Cookie: é': 1, "top_a": 0.5})
        names = ", ".join(["x???Set-Cookie: ?", "top_a"])
        assert answer.headers["warning"] == f'299 - "unknown fields are ignored: {names}"'
        assert "set-cookie" not in answer.headers
