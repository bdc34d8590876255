"""The shape of every answer, streamed and not: exact bytes of the events, usage, token ids, several prompts."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from ernie_backend.chat.messages import normalize_messages
from fakes.triton_grpc import FakeTriton, Inference, Response, tell
from support import http

pytest_plugins = ("support.frontend_server",)

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4, "image_tokens": 0, "video_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "image_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def post(url: str, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post(f"{url}{path}", json=body, headers=headers)


def stream(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    """Return the decoded events of a stream; ``[DONE]`` stays a string."""
    answer = post(url, path, {**body, "stream": True})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    texts = [event.removeprefix("data: ") for event in events]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_chat_stream_bytes(frontend: str, triton: FakeTriton) -> None:
    answer = post(frontend, "/v1/chat/completions", {**CHAT, "stream": True}, **{"X-Request-Id": "me-1"})
    head = (
        '{"id":"ID","object":"chat.completion.chunk","created":0,"model":"ernie-tiny",'
        '"choices":[{"index":0,"delta":'
    )
    opening = (
        '{"role":"assistant","content":"","reasoning_content":"","tool_calls":null,'
        '"prompt_token_ids":null,"completion_token_ids":null}'
    )
    going = ',"logprobs":null,"finish_reason":null}]}'
    expected = [
        f"{head}{opening}{going}",
        f'{head}{{"content":"Bei","reasoning_content":null}}{going}',
        f'{head}{{"content":"jing","reasoning_content":null}}{going}',
        f'{head}{{"content":".","reasoning_content":null}}{going}',
        f'{head}{{"content":"","reasoning_content":null}},"logprobs":null,"finish_reason":"stop"}}]}}',
        "[DONE]",
    ]
    text = re.sub(r'"created":\d+', '"created":0', answer.text)
    text = re.sub(r'"id":"chatcmpl-[0-9a-f]{32}-me-1"', '"id":"ID"', text)
    assert text == "".join(f"data: {event}\n\n" for event in expected)


def test_completion_stream_bytes(frontend: str, triton: FakeTriton) -> None:
    answer = post(frontend, "/v1/completions", {"prompt": "Hi", "stream": True})
    head = (
        '{"id":"ID","object":"text_completion","created":0,"model":"ernie-tiny","choices":[{"index":0,"text":'
    )
    expected = [
        *(f'{head}"{text}","logprobs":null,"finish_reason":null}}]}}' for text in ("Bei", "jing", ".")),
        f'{head}"","logprobs":null,"finish_reason":"stop"}}]}}',
        "[DONE]",
    ]
    text = re.sub(r'"created":\d+', '"created":0', answer.text)
    text = re.sub(r'"id":"cmpl-[0-9a-f]{32}"', '"id":"ID"', text)
    assert text == "".join(f"data: {event}\n\n" for event in expected)


def test_whole_chat_answer(frontend: str, triton: FakeTriton) -> None:
    answer = post(frontend, "/v1/chat/completions", CHAT).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": "ernie-tiny",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Beijing.",
                    "multimodal_content": None,
                    "reasoning_content": None,
                    "tool_calls": None,
                    "prompt_token_ids": None,
                    "completion_token_ids": None,
                    "prompt_tokens": None,
                    "completion_tokens": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_the_finish_reason_is_the_engines(frontend: str, triton: FakeTriton) -> None:
    triton.answer = lambda inference: tell(inference, reason="length")
    answer = post(frontend, "/v1/chat/completions", {**CHAT, "max_tokens": 100}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert stream(frontend, "/v1/chat/completions", CHAT)[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_answer_that_repeats_itself_says_so(frontend: str, triton: FakeTriton, path: str) -> None:
    async def loop(inference: Inference) -> AsyncIterator[Response]:
        async for response in tell(inference, reason="length"):
            assert isinstance(response, dict)
            yield {**response, **({"stop_reason": "repetition_detected"} if response["finish_reason"] else {})}

    triton.answer = loop
    body = {**CHAT, "prompt": "Hi"}
    whole = post(frontend, path, body).json()["choices"][0]
    *before, end = [event["choices"][0] for event in stream(frontend, path, body)[:-1]]
    for choice in (whole, end):
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "repetition_detected")
    assert not any("stop_reason" in choice for choice in before)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_only_when_asked(frontend: str, triton: FakeTriton, path: str) -> None:
    body: dict[str, Any] = {**CHAT, "prompt": "Hi"}
    silent = stream(frontend, path, body)
    assert all("usage" not in event and event["choices"] for event in silent[:-1])

    last_only = stream(frontend, path, {**body, "stream_options": {"include_usage": True}})
    assert all(event["usage"] is None for event in last_only[:-2])
    assert (last_only[-2]["choices"], last_only[-2]["usage"]) == ([], USAGE)

    running = stream(frontend, path, {**body, "stream_options": {"continuous_usage_stats": True}})
    counts = [event["usage"]["completion_tokens"] for event in running[:-1]]
    assert counts == sorted(counts)
    assert (counts[-1], running[-2]["choices"]) == (3, [])
    assert all(event["usage"]["prompt_tokens"] == 7 for event in running[:-1])


def test_token_ids_of_chat(frontend: str, triton: FakeTriton) -> None:
    body = {**CHAT, "return_token_ids": True}
    message = post(frontend, "/v1/chat/completions", body).json()["choices"][0]["message"]
    assert message["prompt_token_ids"] == [1, 2, 3, 4, 5, 6, 7]
    assert message["completion_token_ids"] == [100, 101, 102]
    assert (message["prompt_tokens"], message["completion_tokens"]) == ("User: Hi\nA:", "Beijing.")

    deltas = [event["choices"][0]["delta"] for event in stream(frontend, "/v1/chat/completions", body)[:-1]]
    assert deltas[0]["prompt_token_ids"] == [1, 2, 3, 4, 5, 6, 7]
    assert deltas[0]["prompt_tokens"] == "User: Hi\nA:"
    assert [delta["completion_token_ids"] for delta in deltas[1:-1]] == [[100], [101], [102]]


def test_token_ids_of_completions(frontend: str, triton: FakeTriton) -> None:
    body = {"prompt": [5, 6], "return_token_ids": True}
    [choice] = post(frontend, "/v1/completions", body).json()["choices"]
    assert choice["prompt_token_ids"] == [1, 2, 3, 4, 5, 6, 7]
    assert choice["completion_token_ids"] == [100, 101, 102]
    choices = [event["choices"][0] for event in stream(frontend, "/v1/completions", body)[:-1]]
    assert choices[0]["prompt_token_ids"] == [1, 2, 3, 4, 5, 6, 7]
    assert [choice["completion_token_ids"] for choice in choices[1:-1]] == [[100], [101], [102]]


def test_a_token_without_text_makes_no_chunk(frontend: str, triton: FakeTriton) -> None:
    triton.answer = lambda inference: tell(inference, ("a", "", "b"))
    assert len(stream(frontend, "/v1/chat/completions", CHAT)) == len(["opening", "a", "b", "finish", "[DONE]"])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", [("text_input", "Hi")]),
        (["a", "b"], [("text_input", "a"), ("text_input", "b")]),
        ([3, 999, 0], [("input_ids", [3, 999, 0])]),
        ([[1], [2, 3]], [("input_ids", [1]), ("input_ids", [2, 3])]),
    ],
)
def test_prompt_forms(
    frontend: str, triton: FakeTriton, prompt: object, expected: list[tuple[str, object]]
) -> None:
    answer = post(frontend, "/v1/completions", {"prompt": prompt}).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    by_index = sorted(triton.inferences, key=lambda inference: str(inference.inputs["request_id"]))
    assert [
        (name, inference.inputs[name]) for inference, (name, _) in zip(by_index, expected, strict=True)
    ] == expected
    assert answer["usage"]["prompt_tokens"] == 7 * len(expected)
    assert answer["usage"]["completion_tokens"] == 3 * len(expected)


def test_the_choice_index_is_the_prompts(frontend: str, triton: FakeTriton) -> None:
    triton.answer = lambda inference: tell(inference, (inference.inputs["text_input"], "!"))
    body: dict[str, Any] = {"prompt": ["one", "two", "three"], "stream_options": {"include_usage": True}}
    events = stream(frontend, "/v1/completions", body)
    texts = {0: "", 1: "", 2: ""}
    finished = []
    for event in events[:-2]:
        [choice] = event["choices"]
        texts[choice["index"]] += choice["text"]
        finished += [choice["index"]] if choice["finish_reason"] else []
    assert texts == {0: "one!", 1: "two!", 2: "three!"}
    assert sorted(finished) == [0, 1, 2]
    assert events[-2]["usage"]["prompt_tokens"] == 21


def test_what_goes_to_the_engine(frontend: str, triton: FakeTriton) -> None:
    body = {
        "model": "null",
        "messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "bot"},
            {"role": "tool", "content": None},
        ],
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "seed": 42,
        "stop": "\n",
        "ignore_eos": True,
        "user": "me",
        "some_future_field": {"x": 1},
        "chat_template_kwargs": {"options": {"thinking_mode": "close"}},
    }
    assert post(frontend, "/v1/chat/completions", body).status_code == 200
    [inference] = triton.inferences
    assert normalize_messages(inference.messages["messages"]) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": ""},
    ]
    options = {"options": {"thinking_mode": "close"}, "enable_thinking": False}
    assert inference.messages["chat_template_kwargs"] == options
    assert inference.sampling == {
        "max_tokens": 6,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "seed": 42,
        "stop": ["\n"],
        "ignore_eos": True,
    }
    assert inference.inputs["exclude_input_in_output"] is True
    assert "stream" not in inference.inputs


def test_models(frontend: str, triton: FakeTriton) -> None:
    triton.models["bare"] = {"state": "unconfigured", "detail": "no weights", "generation": 0, "engine": None}
    triton.models["foreign"] = "unexpected inference input 'control' for model 'foreign'"
    client = openai.OpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0)
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("ernie-tiny", "model", "ernie-triton")
    assert model.to_dict()["max_model_len"] == 2048
    assert client.models.retrieve("ernie-tiny").id == "ernie-tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("bare")


async def test_the_asynchronous_client(frontend: str, triton: FakeTriton) -> None:
    async with openai.AsyncOpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0) as client:
        whole = await client.chat.completions.create(model="null", messages=[{"role": "user", "content": "Hi"}])
        assert whole.choices[0].message.content == "Beijing."
        text = ""
        async with await client.completions.create(model="null", prompt="Hi", stream=True) as chunks:
            async for chunk in chunks:
                text += chunk.choices[0].text
        assert text == "Beijing."


def test_the_request_id_is_echoed_and_reaches_the_wire(frontend: str, triton: FakeTriton) -> None:
    given = post(frontend, "/v1/chat/completions", CHAT, **{"X-Request-Id": "trace-7"})
    assert given.headers["x-request-id"] == "trace-7"
    assert triton.inferences[0].inputs["request_id"].endswith("-trace-7")
    for bad in ("a b", "x" * 129):
        made = post(frontend, "/v1/chat/completions", CHAT, **{"X-Request-Id": bad})
        assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])


def test_health(frontend: str, triton: FakeTriton) -> None:
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        answer = http.request(method, f"{frontend}{path}")
        assert (answer.status_code, answer.content) == (200, b"")
    sick: list[dict[str, Any] | str] = [
        {"state": "starting", "detail": "loading weights", "ready": False, "heartbeat_age_s": None},
        {"state": "ready", "detail": "no heartbeat for 31 s", "ready": False, "heartbeat_age_s": 31.0},
        "Stub process 'ernie-tiny_0' is not healthy.",
    ]
    for health in sick:
        triton.health = health
        answer = http.get(f"{frontend}/health")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_unavailable"


def test_server_timing(frontend: str, triton: FakeTriton) -> None:
    for is_streamed, name in ((False, "total"), (True, "ttft")):
        answer = post(frontend, "/v1/chat/completions", {**CHAT, "stream": is_streamed})
        assert re.fullmatch(rf"{name};dur=\d+\.\d", answer.headers["server-timing"])


def test_streaming_flag_reaches_triton(frontend: str, triton: FakeTriton) -> None:
    seen: list[Inference] = triton.inferences
    stream(frontend, "/v1/chat/completions", CHAT)
    assert seen[0].inputs["stream"] is True
