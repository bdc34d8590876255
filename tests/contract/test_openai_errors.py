"""Everything a client can do wrong, and everything that can break behind us: status, envelope, and no 500."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ernie_wire.errors import ContextLengthExceeded
from fakes.triton_grpc import EventLoopThread, FakeTriton, Inference, Response, hang_after_first, tell
from support import http
from support.free_ports import free_port
from support.waiting import WAIT_S, eventually

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
MISSING = "missing_required_parameter"


def post(url: str, path: str, body: object, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(f"{url}{path}", content=content, headers=headers)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check the status and the envelope, and return the error object."""
    assert answer.status_code == status, answer.text
    envelope = answer.json()
    assert set(envelope) == {"error"}
    error: dict[str, Any] = envelope["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert answer.headers["x-request-id"]
    return error


BAD_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "Hi"}, "messages", "invalid_value"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": [1, "2"]}, "messages", "invalid_value"),
    ({"messages": [1, 1000]}, "prompt_token_ids", "invalid_value"),
    ({"messages": MESSAGES, "prompt_token_ids": []}, "prompt_token_ids", "invalid_value"),
    ({"messages": MESSAGES, "completion_token_ids": [5]}, "completion_token_ids", "invalid_value"),
    ({"prompt_token_ids": [5], "completion_token_ids": [-1]}, "completion_token_ids", "invalid_value"),
    ({"messages": [{"content": "Hi"}]}, "messages", "missing_required_parameter"),
    ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": [7]}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", "invalid_value"),
    ({"messages": MESSAGES, "temperature": "hot"}, "temperature", "invalid_value"),
    ({"messages": MESSAGES, "temperature": -1}, "temperature", "invalid_value"),
    ({"messages": MESSAGES, "temperature": float("nan")}, "temperature", "invalid_value"),
    ({"messages": MESSAGES, "temperature": float("inf")}, "temperature", "invalid_value"),
    ({"messages": MESSAGES, "top_p": 1.5}, "top_p", "invalid_value"),
    ({"messages": MESSAGES, "top_k": -2}, "top_k", "invalid_value"),
    ({"messages": MESSAGES, "seed": 2**63}, "seed", "invalid_value"),
    ({"messages": MESSAGES, "seed": -(2**63) - 1}, "seed", "invalid_value"),
    ({"messages": MESSAGES, "max_tokens": 16.5}, "max_tokens", "invalid_value"),
    ({"messages": MESSAGES, "max_tokens": True}, "max_tokens", "invalid_value"),
    ({"messages": MESSAGES, "n": 1.5}, "n", "invalid_value"),
    ({"messages": MESSAGES, "stop_token_ids": [1.5]}, "stop_token_ids", "invalid_value"),
    ({"messages": [1.0, 2.5]}, "messages", "invalid_value"),
    ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"messages": MESSAGES, "max_tokens": "5"}, "max_tokens", "invalid_value"),
    ({"messages": MESSAGES, "max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
    ({"messages": MESSAGES, "stop": [1]}, "stop", "invalid_value"),
    ({"messages": MESSAGES, "stop": [""]}, "stop", "invalid_value"),
    ({"messages": MESSAGES, "stream": "yes"}, "stream", "invalid_value"),
    ({"messages": MESSAGES, "stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"messages": MESSAGES, "model": 5}, "model", "invalid_value"),
    ({"messages": MESSAGES, "tools": {}}, "tools", "invalid_value"),
    ({"messages": MESSAGES, "tools": [{"type": "function", "function": {}}]}, "tools", MISSING),
    ({"messages": MESSAGES, "tools": [{"type": "web_search"}]}, "tools", "invalid_value"),
    ({"messages": MESSAGES, "parallel_tool_calls": 0, "tools": TOOLS}, "parallel_tool_calls", "invalid_value"),
    ({"messages": MESSAGES, "tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"messages": MESSAGES, "tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"messages": MESSAGES, "tool_choice": "g", "tools": TOOLS}, "tool_choice", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages", MISSING),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages", MISSING),
    ({"messages": MESSAGES, "tool_choice": {"type": "function"}}, "tool_choice", MISSING),
    ({"messages": MESSAGES, "enable_thinking": "maybe"}, "enable_thinking", "invalid_value"),
    ({"messages": MESSAGES, "metadata": {"enable_thinking": 3}}, "enable_thinking", "invalid_value"),
    ({"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "invalid_value"),
    ({"messages": MESSAGES, "n": 0}, "n", "invalid_value"),
    ({"messages": MESSAGES, "n": 129}, "n", "invalid_value"),
    ({"messages": MESSAGES, "best_of": 2}, "best_of", "invalid_value"),
    ({"messages": MESSAGES, "min_p": 1.5}, "min_p", "invalid_value"),
    ({"messages": MESSAGES, "min_tokens": -1}, "min_tokens", "invalid_value"),
    ({"messages": MESSAGES, "min_tokens": 6, "max_tokens": 5}, "min_tokens", "invalid_value"),
    ({"messages": MESSAGES, "repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ({"messages": MESSAGES, "frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
    ({"messages": MESSAGES, "logit_bias": {"one": 1}}, "logit_bias", "invalid_value"),
    ({"messages": MESSAGES, "logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
    ({"messages": MESSAGES, "bad_words": [""]}, "bad_words", "invalid_value"),
    ({"messages": MESSAGES, "bad_words": 3}, "bad_words", "invalid_value"),
    ({"messages": MESSAGES, "bad_words_token_ids": [-1]}, "bad_words_token_ids", "invalid_value"),
    ({"messages": MESSAGES, "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
    ({"messages": MESSAGES, "allowed_token_ids": []}, "allowed_token_ids", "invalid_value"),
    ({"messages": MESSAGES, "stop_token_ids": ["x"]}, "stop_token_ids", "invalid_value"),
    ({"messages": MESSAGES, "include_stop_str_in_output": 1}, "include_stop_str_in_output", "invalid_value"),
    ({"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"messages": MESSAGES, "logprobs": True, "top_logprobs": -2}, "top_logprobs", "invalid_value"),
    ({"messages": MESSAGES, "top_logprobs": True}, "top_logprobs", "invalid_value"),
    ({"messages": MESSAGES, "top_logprobs": -1}, "top_logprobs", "invalid_value"),
    ({"messages": MESSAGES, "logprobs": 3}, "logprobs", "invalid_value"),
    ({"messages": MESSAGES, "prompt_logprobs": -2}, "prompt_logprobs", "invalid_value"),
    ({"messages": MESSAGES, "priority": 2**31}, "priority", "invalid_value"),
    ({"messages": MESSAGES, "cache_salt": "x" * 513}, "cache_salt", "invalid_value"),
    (
        {"messages": MESSAGES, "max_streaming_response_tokens": 0},
        "max_streaming_response_tokens",
        "invalid_value",
    ),
    ({"messages": MESSAGES, "metadata": {"raw_request": False}}, "metadata", "invalid_value"),
    ({"messages": MESSAGES, "metadata": {"temperature": -1}}, "temperature", "invalid_value"),
    ({"messages": MESSAGES, "metadata": {"guided_regex": 1}}, "guided_regex", "invalid_value"),
    ({"messages": MESSAGES, "logits_processors_args": {"x": 1}}, "logits_processors_args", "invalid_value"),
    ({"messages": MESSAGES, "response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
    ({"messages": MESSAGES, "guided_json": {}, "guided_regex": "a"}, "guided_regex", "invalid_value"),
    (
        {"messages": MESSAGES, "logits_processors_args": {"thinking_budget": 0}},
        "thinking_budget",
        "invalid_value",
    ),
    ({"messages": MESSAGES, "reasoning_effort": "max"}, "reasoning_effort", "invalid_value"),
    ({"messages": MESSAGES, "reasoning_max_tokens": 0}, "reasoning_max_tokens", "invalid_value"),
    ({"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template", "invalid_value"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD_CHATS, ids=lambda value: str(value)[:60])
def test_bad_chat(frontend: str, triton: FakeTriton, body: dict[str, Any], param: str, code: str) -> None:
    error = error_of(post(frontend, "/v1/chat/completions", body), 400)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert triton.inferences == []


def test_an_unknown_part_is_told_which_there_are(frontend: str) -> None:
    chat = {"messages": [{"role": "user", "content": [{"type": "picture"}]}]}
    error = error_of(post(frontend, "/v1/chat/completions", chat), 400)
    known = "text, image_url, video_url, image, input_image, video"
    assert error["message"].endswith(f"a part of type 'picture' is not supported; known: {known}")
    assert error["param"] == "messages"


BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "prompt", "missing_required_parameter"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [[]]}, "prompt", "invalid_value"),
    ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
    ({"prompt": [True]}, "prompt", "invalid_value"),
    ({"prompt": None}, "prompt", "invalid_value"),
    ({"prompt": [1, -1]}, "prompt", "invalid_value"),
    ({"prompt": [1000]}, "prompt", "invalid_value"),
    ({"prompt": [2**40]}, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 129}, "prompt", "invalid_value"),
    ({"prompt": "a", "max_tokens": -1}, "max_tokens", "invalid_value"),
    ({"prompt_token_ids": [[1], []]}, "prompt_token_ids", "invalid_value"),
    ({"prompt_token_ids": [[1], [1000]]}, "prompt_token_ids", "invalid_value"),
    ({"prompt": "a", "completion_token_ids": [1]}, "completion_token_ids", "invalid_value"),
    ({"prompt": [[1], [2]], "completion_token_ids": [1]}, "completion_token_ids", "invalid_value"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "invalid_value"),
    ({"prompt": [1.5]}, "prompt", "invalid_value"),
    ({"prompt": "a", "logprobs": "1"}, "logprobs", "invalid_value"),
    ({"prompt": "a", "logprobs": -2}, "logprobs", "invalid_value"),
    ({"prompt": "a", "logprobs": 0.5}, "logprobs", "invalid_value"),
    ({"prompt": "a", "stream_options": {"include_usage": False}}, "stream_options", "invalid_value"),
    ({"prompt": "a", "n": 3, "best_of": 2}, "best_of", "invalid_value"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of", "invalid_value"),
    ({"prompt": "a", "best_of": 129}, "best_of", "invalid_value"),
    ({"prompt": ["a"] * 65, "n": 2}, "prompt", "invalid_value"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD_COMPLETIONS, ids=lambda value: str(value)[:60])
def test_bad_completion(frontend: str, triton: FakeTriton, body: dict[str, Any], param: str, code: str) -> None:
    error = error_of(post(frontend, "/v1/completions", body), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert triton.inferences == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b'{"messages": "\\ud800"}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_body_that_is_no_json_object(frontend: str, triton: FakeTriton, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert error_of(post(frontend, path, body), 400)["code"] == "invalid_value"


def test_neutral_values_of_unsupported_fields_are_accepted(frontend: str, triton: FakeTriton) -> None:
    neutral: dict[str, Any] = {
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": None,
        "repetition_penalty": 1.0,
        "response_format": {"type": "text"},
        "logit_bias": {},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
    }
    assert post(frontend, "/v1/chat/completions", {"messages": MESSAGES, **neutral}).status_code == 200


def test_huge_bodies(frontend: str, triton: FakeTriton) -> None:
    huge = {"messages": [{"role": "user", "content": "x" * (1 << 20)}]}
    announced = post(frontend, "/v1/chat/completions", huge)
    assert error_of(announced, 413)["code"] == "request_too_large"

    def in_pieces() -> Any:
        for _ in range(64):
            yield b"x" * (64 << 10)

    streamed = http.post(f"{frontend}/v1/chat/completions", content=in_pieces())
    assert error_of(streamed, 413)["code"] == "request_too_large"


def test_unknown_paths_and_methods(frontend: str, triton: FakeTriton) -> None:
    assert error_of(http.get(f"{frontend}/v1/nothing"), 404)["code"] == "unknown_url"
    wrong = http.get(f"{frontend}/v1/chat/completions")
    assert error_of(wrong, 405)["code"] == "method_not_allowed"
    assert "POST" in wrong.headers["allow"]


@pytest.mark.parametrize(
    ("line", "status", "code", "param"),
    [
        (
            "context_length_exceeded[messages]: the prompt has 9 tokens",
            400,
            "context_length_exceeded",
            "messages",
        ),
        ("invalid_value[stop]: bad", 400, "invalid_value", "stop"),
        ("invalid_value[logprobs]: logprobs is 21", 400, "invalid_value", "logprobs"),
        ("invalid_value[text_input]: empty", 400, "invalid_value", "prompt"),
        ("queue_full: too much work", 429, "queue_full", None),
        ("timeout: waited 3 s for its turn", 408, "timeout", None),
        ("model_unavailable: no weights in /models/x", 503, "model_unavailable", None),
        ("engine_crashed: killed by signal 9", 500, "engine_crashed", None),
        ("Stub process 'ernie-tiny_0_0' is not healthy.", 503, "model_unavailable", None),
        ("something odd", 500, "internal_error", None),
    ],
)
def test_errors_of_the_backend(
    frontend: str, triton: FakeTriton, line: str, status: int, code: str, param: str | None
) -> None:
    async def refuse(_: Inference) -> AsyncIterator[Response]:
        yield line

    triton.answer = refuse
    for stream in (False, True):  # before the first token a stream, too, has a plain HTTP status
        body = {"messages": MESSAGES, "prompt": "Hi", "stream": stream}
        for path in ("/v1/chat/completions", "/v1/completions"):
            answer = post(frontend, path, body)
            error = error_of(answer, status)
            assert (error["code"], error["param"]) == (code, param)
            assert ("retry-after" in answer.headers) == (status in (408, 429, 503))


@pytest.mark.parametrize("stream", [False, True])
def test_the_official_client_knows_that_the_context_is_exceeded(
    frontend: str, triton: FakeTriton, stream: bool
) -> None:
    """As LangChain and LiteLLM know it: by the code and the words in the text of the client's exception."""

    async def refuse(_: Inference) -> AsyncIterator[Response]:
        yield ContextLengthExceeded.of(2048, 2100, 1, "messages").to_line()

    triton.answer = refuse
    client = openai.OpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=stream)
    error = caught.value
    assert (error.code, error.param, error.type) == (
        "context_length_exceeded",
        "messages",
        "invalid_request_error",
    )
    assert "context_length_exceeded" in str(error)
    assert "This model's maximum context length is 2048 tokens. However, you requested 2101 tok" in str(error)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_error_after_the_first_token_is_an_event(frontend: str, triton: FakeTriton, path: str) -> None:
    async def break_off(_: Inference) -> AsyncIterator[Response]:
        yield {"text_output": "Bei", "finish_reason": "", "num_input_tokens": 7, "num_output_tokens": 1}
        yield "engine_crashed: killed by signal 9"

    triton.answer = break_off
    answer = post(frontend, path, {"messages": MESSAGES, "prompt": "Hi", "stream": True})
    assert answer.status_code == 200
    *_, error, done = answer.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(error.removeprefix("data: ")) == {
        "error": {
            "message": "killed by signal 9",
            "type": "internal_error",
            "param": None,
            "code": "engine_crashed",
        }
    }


def test_a_stream_that_ends_without_a_finish_reason(frontend: str, triton: FakeTriton) -> None:
    async def nothing(_: Inference) -> AsyncIterator[Response]:
        return
        yield "never"

    triton.answer = nothing
    for stream in (False, True):
        answer = post(frontend, "/v1/chat/completions", {"messages": MESSAGES, "stream": stream})
        assert error_of(answer, 500)["code"] == "engine_crashed"


def test_one_failing_prompt_cancels_the_others(frontend: str, triton: FakeTriton) -> None:
    async def fail_one(inference: Inference) -> AsyncIterator[Response]:
        if inference.inputs["text_input"] == "bad":
            yield "context_length_exceeded[prompt]: too long"
        else:
            await asyncio.Event().wait()

    triton.answer = fail_one
    for stream in (False, True):
        answer = post(frontend, "/v1/completions", {"prompt": ["good", "bad"], "stream": stream})
        assert error_of(answer, 400)["code"] == "context_length_exceeded"
        assert triton.cancelled.get(timeout=WAIT_S).endswith("-0")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_disconnect_cancels(frontend: str, triton: FakeTriton, path: str, stream: bool) -> None:
    triton.answer = hang_after_first
    body = json.dumps({"messages": MESSAGES, "prompt": "Hi", "stream": stream}).encode()
    host, port = frontend.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        if stream:
            assert b"200 OK" in connection.recv(65536)
        else:
            eventually(lambda: triton.inferences)
    cancelled = triton.cancelled.get(timeout=WAIT_S)
    assert cancelled == triton.inferences[0].inputs["request_id"]
    assert triton.finished.get(timeout=WAIT_S) == cancelled
    assert triton.aborted.empty()


def test_a_complete_answer_is_not_cancelled(frontend: str, triton: FakeTriton) -> None:
    for stream in (False, True):
        post(frontend, "/v1/chat/completions", {"messages": MESSAGES, "stream": stream})
    triton.answer = hang_after_first
    with http.stream(
        "POST",
        f"{frontend}/v1/chat/completions",
        json={"messages": MESSAGES, "stream": True},
    ) as answer:
        next(answer.iter_bytes())
    assert triton.cancelled.get(timeout=WAIT_S) == triton.inferences[2].inputs["request_id"]
    assert triton.cancelled.empty()


def test_concurrency_limit(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    triton.answer = hang_after_first
    body = {"messages": MESSAGES, "stream": True}
    with run_frontend(triton.url, max_concurrency=1) as url:
        with http.stream("POST", f"{url}/v1/chat/completions", json=body) as first:
            pieces = first.iter_bytes()  # kept: dropping it would close the connection
            next(pieces)
            refused = post(url, "/v1/completions", {"prompt": "Hi"})
            error = error_of(refused, 429)
            assert (error["code"], refused.headers["retry-after"]) == ("queue_full", "1")
            assert http.get(f"{url}/v1/models").status_code == 200
        triton.cancelled.get(timeout=WAIT_S)
        triton.answer = tell
        for _ in range(3):
            assert post(url, "/v1/completions", {"prompt": "Hi"}).status_code == 200


def test_api_keys(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, api_keys=("one", "two")) as url:
        for header in (
            {},
            {"Authorization": "Bearer three"},
            {"Authorization": "one"},
            {"Authorization": "Bearer"},
        ):
            answer = http.get(f"{url}/v1/models", headers=header)
            assert error_of(answer, 401)["code"] == "invalid_api_key"
        for key in ("one", "two"):
            assert openai.OpenAI(base_url=f"{url}/v1", api_key=key).models.list().data
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="null", max_retries=0).models.list()
        assert http.get(f"{url}/health").status_code == 200
        assert httpx.options(f"{url}/v1/models", trust_env=False, verify=False).status_code == 405


def test_keys_of_a_file_follow_it(run_frontend: RunFrontend, triton: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("one\n")

    def status(key: str) -> int:
        header = {"Authorization": f"Bearer {key}"}
        return http.get(f"{url}/v1/models", headers=header).status_code

    with run_frontend(triton.url, api_key_file=path) as url:
        assert http.get(f"{url}/v1/models").status_code == 401
        assert (status("one"), status("two")) == (200, 401)
        path.write_text("two, as it stands\n")
        eventually(lambda: status("one") != 200)
        assert status("two, as it stands") == 200


def test_served_model_name(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, served_model_name="ernie") as url:
        for name in ("ernie", "default", None):
            answer = post(url, "/v1/completions", {"prompt": "Hi", "model": name})
            assert answer.json()["model"] == "ernie"
        for name in ("null", "ernie-tiny"):
            error = error_of(post(url, "/v1/completions", {"prompt": "Hi", "model": name}), 404)
            assert (error["code"], error["param"]) == ("model_not_support", "model")
        listed = http.get(f"{url}/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["ernie"]


def test_no_triton(run_frontend: RunFrontend, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers, and nobody else takes it
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
        with run_frontend(nowhere) as url:
            for answer in (
                post(url, "/v1/chat/completions", {"messages": MESSAGES}),
                http.get(f"{url}/health"),
                http.get(f"{url}/v1/models"),
            ):
                error = error_of(answer, 503)
                assert error["code"] == "model_unavailable"
                assert nowhere not in error["message"]  # it is for the log alone
    assert nowhere in caplog.text


def test_a_second_triton_takes_over(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
        with run_frontend(nowhere, triton.url) as url:
            for _ in range(3):
                assert post(url, "/v1/completions", {"prompt": "Hi"}).status_code == 200


def test_triton_dies_in_a_stream_and_comes_back(
    triton_loop: EventLoopThread, run_frontend: RunFrontend
) -> None:
    fake, port = FakeTriton(answer=hang_after_first), free_port()  # it comes back on the port
    triton_loop.run(fake.start(port))
    with run_frontend(fake.url) as url:
        body = {"messages": MESSAGES, "stream": True}
        with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            triton_loop.run(fake.stop())
            rest = list(lines)
        *_, error, end = filter(None, rest)
        assert "model_unavailable" in error
        assert end == "data: [DONE]"
        again = FakeTriton()
        triton_loop.run(again.start(port))
        eventually(lambda: post(url, "/v1/completions", {"prompt": "Hi"}).status_code == 200)
        triton_loop.run(again.stop())


def test_a_dead_stub_ends_the_stream(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    """Triton leaves the streams of a dead stub hanging; the health question finds out."""
    triton.answer = hang_after_first
    with run_frontend(triton.url, quiet_check_s=0.05) as url:
        triton.health = "Stub process 'ernie-tiny_0' is not healthy."
        answer = post(url, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
        assert "engine_crashed" in answer.text
        whole = post(url, "/v1/chat/completions", {"messages": MESSAGES})
        assert error_of(whole, 503)["code"] == "model_unavailable"
        assert int(whole.headers["Retry-After"]) > 0


def test_prompts_stay_out_of_the_log(
    frontend: str, triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="ernie_frontend"):
        post(frontend, "/v1/completions", {"prompt": "a secret"}, **{"X-Request-Id": "log-1"})
        post(frontend, "/v1/chat/completions", {"messages": [{"role": "user", "content": ["a secret"]}]})
        post(frontend, "/v1/completions%0Aforged", b"")
    assert "secret" not in caplog.text
    assert "\nforged" not in caplog.text
    assert "Beijing" not in caplog.text
    [line] = [record.getMessage() for record in caplog.records if "log-1" in record.getMessage()]
    assert line.startswith("log-1 POST /v1/completions status=200 input_tokens=7 output_tokens=3 ms=")


def test_the_log_line_of_a_refused_request_has_the_code(
    frontend: str, triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    image = {"type": "image_url", "image_url": {"url": "ftp://secret/"}}
    chat = {"messages": [{"role": "user", "content": [image]}]}
    cases = {
        "log-2": ("/v1/completions", {"prompt": 1.5}, "invalid_value"),
        "log-3": ("/v1/completions", {}, "missing_required_parameter"),
        "log-4": ("/v1/nothing", {}, "unknown_url"),
        "log-5": ("/v1/chat/completions", chat, "invalid_value"),
    }
    expected = []
    with caplog.at_level("INFO", logger="ernie_frontend"):
        for request_id, (path, body, code) in cases.items():
            error = post(frontend, path, body, **{"X-Request-Id": request_id})
            assert error.json()["error"]["code"] == code
            expected.append(f"{request_id} POST {path} status={error.status_code} code={code} input_tokens=0")
        eventually(lambda: all(line in caplog.text for line in expected), lambda: caplog.text)
    assert "secret" not in caplog.text


def test_paths_that_are_nearly_right(frontend: str) -> None:
    error = error_of(http.get(f"{frontend}/"), 404)
    assert "/v1/completions" in error["message"].split(", ")
    error = error_of(post(frontend, "/v1/completions/", {"prompt": "Hi"}), 404)
    assert "slash" in error["message"]
    assert http.get(f"{frontend}/v1/models/").json()["object"] == "list"


def test_an_api_key_of_any_letters(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, api_keys=("schlüssel-\u00e0",)) as url:
        for key, status in (("schlüssel-\u00e0", 200), ("schlüssel", 401)):
            headers = {b"Authorization": f"Bearer {key}".encode()}
            answer = http.get(f"{url}/v1/models", headers=headers)
            assert answer.status_code == status


def test_deep_tool_arguments_are_no_fault_of_ours(frontend: str, triton: FakeTriton) -> None:
    call = {"function": {"name": "f", "arguments": "[" * 100_000}}
    messages = [*MESSAGES, {"role": "assistant", "tool_calls": [call]}]
    assert post(frontend, "/v1/chat/completions", {"messages": messages}).status_code == 200
    assert triton.inferences[0].messages["messages"][1]["tool_calls"] == [call]


def test_the_largest_body_of_the_usual_settings(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url) as url:
        error = error_of(post(url, "/v1/completions", b" " * (9 << 20)), 413)
    assert str(8 << 20) in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("guided_json", {}, "guided_json"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"schema": {}}},
            "response_format.json_schema.schema",
        ),
        ("response_format", {"type": "json_object", "schema": {}}, "response_format.schema"),
        ("structured_outputs", {"json": {}}, "structured_outputs.json"),
    ],
)
def test_an_error_of_a_grammar_names_the_field_of_the_client(
    frontend: str, triton: FakeTriton, field: str, value: object, place: str, stream: bool
) -> None:
    async def refuse(_: Inference) -> AsyncIterator[Response]:
        yield "invalid_value[structured_outputs]: structured_outputs.json#/a: no such type"

    triton.answer = refuse
    answer = post(frontend, "/v1/chat/completions", {"messages": MESSAGES, field: value, "stream": stream})
    error = error_of(answer, 400)
    assert (error["message"], error["param"]) == (f"{place}#/a: no such type", field)


def test_so_does_an_error_in_a_stream(frontend: str, triton: FakeTriton) -> None:
    async def fail(_: Inference) -> AsyncIterator[Response]:
        yield {"text_output": "Bei", "finish_reason": "", "num_input_tokens": 7, "num_output_tokens": 1}
        yield "invalid_value[structured_outputs]: structured_outputs: it cannot be followed any further"

    triton.answer = fail
    body = {"messages": MESSAGES, "guided_regex": "a", "stream": True}
    *_, event, done, end = post(frontend, "/v1/chat/completions", body).text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    error = json.loads(event.removeprefix("data: "))["error"]
    assert (error["param"], error["message"]) == (
        "guided_regex",
        "guided_regex: it cannot be followed any further",
    )
