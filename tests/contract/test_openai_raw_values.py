"""JSON that Python cannot write again: huge numbers, no numbers, half a surrogate pair, anywhere in a body.

Each is refused with the name of its field, or by the parser with its column, or is served; what goes to Triton
can always be read there. The bodies take the way of the routes without HTTP, since they are thousands.
And what Triton says in words of its own is not for clients.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from pydantic import ValidationError

from ernie_frontend.http_errors import error_response, from_validation
from ernie_frontend.routes.request_body import _parse
from ernie_frontend.schema.openapi import GENERATIONS
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.triton.tensors import generate_inputs
from ernie_wire.errors import ErnieError, InvalidRequest
from ernie_wire.messages import GenerateRequest
from fakes.triton_grpc import FakeTriton, Inference, Response
from support import http
from support.http import answer_of, connected

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
DIGITS = "1" + "0" * 5000
VALUES = (
    *(DIGITS, f"-{DIGITS}", f"{DIGITS}.5", "1e999", f"1e{DIGITS}", "1" * 20, "1" * 400),
    *("NaN", "Infinity", "-Infinity", '"\\ud800"', '"a\\udc00b"', f'"{DIGITS}"'),
)
PLACES = (
    "VALUE",
    "[VALUE]",
    "[5, VALUE]",
    "[[VALUE]]",
    '{"a": VALUE}',
    '{"5": VALUE}',
    '{"a": {"b": [1, VALUE]}}',
)
TREES = ('[{"a": VALUE}]', '[{"type": "text", "text": VALUE}]', '{"include_usage": VALUE}')
IN_MESSAGES = (
    '{"role": "user", "content": VALUE}',
    '{"role": VALUE, "content": "a"}',
    '{"role": "user", "content": "a", "name": VALUE}',
    '{"role": "user", "content": "a", "unknown": VALUE}',
    '{"role": "user", "content": [{"type": "text", "text": VALUE}]}',
    '{"role": "user", "content": [{"type": "text", "text": "a", "x": VALUE}]}',
    '{"role": "user", "content": [{"type": "image_url", "image_url": VALUE}]}',
    '{"role": "user", "content": [{"type": "image_url", "image_url": {"url": VALUE}}]}',
    '{"role": "user", "content": {"type": "video_url", "video_url": {"url": "data:,x", "fps": VALUE}}}',
    '{"role": "user", "content": {"type": "video_url", "video_url": {"url": "data:,x", "subtitles": VALUE}}}',
    '{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": VALUE}}]}',
    '{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [VALUE]}}}]}',
    '{"role": "assistant", "reasoning_content": VALUE}',
    '{"role": "tool", "tool_call_id": VALUE, "content": "a"}',
)
KEYS = (f'"{DIGITS}"', f'"-{DIGITS}"', '"\\ud800"', '"1e999"', '"NaN"', '"\\u0661"', '"' + "1" * 20 + '"')
KEYED = ("{KEY: 1}", '{"a": {KEY: 1}}', "[{KEY: 1}]")
TO_WIRE: dict[str, Callable[[Any, RequestContext], list[GenerateRequest]]] = {
    CHAT: chat_to_wire,
    COMPLETIONS: completion_to_wire,
}
HI = '"messages": [{"role": "user", "content": "Hi"}], '


def values(field: str) -> list[str]:
    places = [*PLACES, *TREES, *(f"[{message}]" for message in IN_MESSAGES if field == "messages")]
    return [
        *(place.replace("VALUE", value) for place in places for value in VALUES),
        *(place.replace("KEY", key) for place in KEYED for key in KEYS),
    ]


def check_wires(wires: list[GenerateRequest]) -> None:
    for wire in wires:
        generate_inputs(wire)
        json.dumps(wire.sampling.to_json(), allow_nan=False)
        json.loads(wire.messages or b"{}", parse_constant=pytest.fail)


def outcome(path: str, body: bytes) -> ErnieError | None:
    """Return the error of a body, or None if it would be sent to Triton; fails if that cannot be read."""
    try:
        read = _parse(GENERATIONS[path].body, body)
        check_wires(TO_WIRE[path](read, RequestContext("r", 1000, 8)))
    except ValidationError as error:
        return from_validation(error)
    except ErnieError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (path, name)
        for path, generation in GENERATIONS.items()
        for name in (*generation.body.model_fields, *generation.refused, "unknown")
    ],
)
def test_every_field(path: str, field: str) -> None:
    others = {name: value for name, value in GENERATIONS[path].example.items() if name != field}
    for value in values(field):
        error = outcome(path, f'{json.dumps(others)[:-1]}{", " * bool(others)}"{field}": {value}}}'.encode())
        if error is None:
            continue
        assert isinstance(error, InvalidRequest)
        assert len(error_response(error).body) < 10_000
        if error.param is not None:
            continue
        assert error.message.startswith("the request body is not valid JSON")
        assert "line 1 column " in error.message


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("field", "body"),
    [
        (
            "messages",
            '"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"a": VALUE}}}]}]',
        ),
        ("tools", HI + '"tools": [{"function": {"parameters": {"maximum": VALUE}}}]'),
        ("chat_template_kwargs", HI + '"chat_template_kwargs": {"a": {"b": [VALUE]}}'),
        ("logit_bias", HI + '"logit_bias": {"5": VALUE}'),
    ],
)
def test_a_number_that_is_none_names_its_field(
    frontend: str, triton: FakeTriton, field: str, body: str, value: str
) -> None:
    content = f"{{{body.replace('VALUE', value)}}}".encode()
    answer = http.post(f"{frontend}{CHAT}", content=content)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert not triton.inferences


@pytest.mark.parametrize("key", [DIGITS, "1" * 21, "-1", "\u0661", "1.0"])
def test_a_key_of_logit_bias_that_is_no_token_id(frontend: str, triton: FakeTriton, key: str) -> None:
    body = {"prompt": "Hi", "logit_bias": {key: 1}}
    answer = http.post(f"{frontend}{COMPLETIONS}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logit_bias")
    assert len(answer.text) < 300


@pytest.mark.parametrize("length", [DIGITS, f"-{DIGITS}", "1" * 20, "\u00b2"])
def test_a_content_length_of_many_digits(frontend: str, length: str) -> None:
    with connected(frontend) as connection:
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        answer, content = answer_of(connection)
    assert answer.status in (400, 413)
    assert json.loads(content)["error"]["type"] == "invalid_request_error"


SECRET = "/dev/shm/ernie-triton-4711-0"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (
            f"Failed to increase the shared memory pool size for key '{SECRET}'. Error: No space",
            503,
        ),
        (f"Stub process 'ernie-tiny_0_0' is not healthy. {SECRET}", 503),
        (f"Internal: {SECRET}", 500),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_triton_says_is_for_the_log(
    frontend: str, triton: FakeTriton, caplog: pytest.LogCaptureFixture, text: str, status: int, is_stream: bool
) -> None:
    async def fail(inference: Inference) -> AsyncIterator[Response]:
        if is_stream:
            yield {"text_output": "a", "finish_reason": "", "num_input_tokens": 7, "num_output_tokens": 1}
        yield text

    triton.answer = fail
    body = {"prompt": "Hi", "stream": is_stream}
    headers = {"X-Request-Id": "mine-1"}
    answer = http.post(f"{frontend}{COMPLETIONS}", json=body, headers=headers)
    assert answer.status_code == (200 if is_stream else status)
    assert '"error"' in answer.text
    assert SECRET not in answer.text
    (line,) = [record.getMessage() for record in caplog.records if SECRET in record.getMessage()]
    assert "mine-1" in line


def test_an_error_of_our_own_is_passed_on(
    frontend: str, triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(inference: Inference) -> AsyncIterator[Response]:
        yield "internal_error[prompt]: a sentence of ours"

    triton.answer = fail
    answer = http.post(f"{frontend}{COMPLETIONS}", json={"prompt": "Hi"})
    assert answer.json()["error"]["message"] == "a sentence of ours"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("path", ["/health", "/v1/models", COMPLETIONS])
def test_the_address_of_triton_is_for_the_log(
    run_frontend: RunFrontend, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    url = "unix:/nowhere/ernie-triton-1/triton.sock"
    with run_frontend(url) as frontend:
        content = b'{"prompt": "Hi"}' if path == COMPLETIONS else None
        method = "GET" if content is None else "POST"
        answer = http.request(method, frontend + path, content=content)
    assert answer.status_code == 503
    assert "nowhere" not in answer.text
    assert any(url in record.getMessage() for record in caplog.records)
