"""Web pages of other origins: off by default; let in by flags, with preflights, errors and streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ernie_frontend.cors import Cors
from ernie_frontend.routes import completions
from fakes.triton_grpc import FakeTriton, Inference, Response, hang_after_first
from support import http

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
ORIGIN = "https://chat.example.com"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
}


def ask(url: str, method: str = "POST", headers: dict[str, str] | None = None, **named: Any) -> httpx.Response:
    sent = {"Origin": ORIGIN, **(headers or {})}
    return http.request(method, url, headers=sent, **named)


@pytest.fixture
def open_to_origin(run_frontend: RunFrontend, triton: FakeTriton) -> Iterator[str]:
    cors = Cors((ORIGIN, "http://localhost:3000"))
    limits = {"max_concurrency": 1, "max_body_bytes": 1000}
    with run_frontend(triton.url, cors=cors, api_keys=("k",), **limits) as url:
        yield url


def test_no_page_is_let_in_by_default(frontend: str, triton: FakeTriton) -> None:
    assert ask(f"{frontend}{CHAT}", "OPTIONS", PREFLIGHT).status_code == 405
    for answer in (ask(f"{frontend}{CHAT}", json=BODY), ask(f"{frontend}/v1/models", "GET")):
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_needs_no_key(open_to_origin: str) -> None:
    answer = ask(f"{open_to_origin}{CHAT}", "OPTIONS", PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


def test_another_origin_is_not_let_in(open_to_origin: str) -> None:
    for other in ("https://evil.example.com", "http://chat.example.com", f"{ORIGIN}.evil.com", "null"):
        refused = ask(f"{open_to_origin}{CHAT}", "OPTIONS", {**PREFLIGHT, "Origin": other})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        simple = ask(f"{open_to_origin}/health", "GET", {"Origin": other})
        assert "access-control-allow-origin" not in simple.headers


async def unavailable(_: Inference) -> AsyncIterator[Response]:
    yield "model_unavailable: the engine is starting"


@pytest.mark.parametrize(
    ("status", "path", "named"),
    [
        (200, CHAT, {"json": BODY}),
        (200, CHAT, {"json": {**BODY, "stream": True}}),
        (400, CHAT, {"content": b"{"}),
        (401, CHAT, {"json": BODY, "headers": {"Authorization": "Bearer wrong"}}),
        (404, "/v1/nothing", {"json": BODY}),
        (405, "/v1/models", {"json": BODY}),
        (413, CHAT, {"content": b" " * 2000}),
        (415, CHAT, {"content": b"x", "headers": {"Authorization": "Bearer k", "Content-Encoding": "br"}}),
        (503, CHAT, {"json": BODY}),
    ],
)
def test_answers_and_errors_can_be_read(
    open_to_origin: str, triton: FakeTriton, status: int, path: str, named: dict[str, Any]
) -> None:
    if status == 503:
        triton.answer = unavailable
    answer = ask(f"{open_to_origin}{path}", **{"headers": {"Authorization": "Bearer k"}, **named})
    assert answer.status_code == status
    check_readable(answer)


def check_readable(answer: httpx.Response) -> None:
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Origin" in answer.headers["vary"]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"X-Request-Id", "Retry-After"} <= set(exposed)


def test_429_can_be_read(open_to_origin: str, triton: FakeTriton) -> None:
    triton.answer = hang_after_first
    key = {"Authorization": "Bearer k", "Origin": ORIGIN}
    stream = {**BODY, "stream": True}
    url = f"{open_to_origin}{CHAT}"
    with http.stream("POST", url, json=stream, headers=key):
        answer = ask(url, headers=key, json=BODY)
    assert answer.status_code == 429
    check_readable(answer)


def test_a_fault_of_ours_can_be_read(
    open_to_origin: str, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> dict[str, Any]:
        raise RuntimeError

    monkeypatch.setattr(completions, "CHAT", replace(completions.CHAT, whole=break_down))
    answer = ask(f"{open_to_origin}{CHAT}", headers={"Authorization": "Bearer k"}, json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    check_readable(answer)


def test_methods_headers_and_credentials(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    cors = Cors((ORIGIN,), methods=("GET",), headers=("Authorization",), has_credentials=True)
    with run_frontend(triton.url, cors=cors) as url:
        wanted = {**PREFLIGHT, "Access-Control-Request-Headers": "authorization"}
        assert ask(f"{url}{CHAT}", "OPTIONS", wanted).status_code == 400
        wanted["Access-Control-Request-Method"] = "GET"
        answer = ask(f"{url}/v1/models", "OPTIONS", wanted)
        assert (answer.status_code, answer.headers["access-control-allow-credentials"]) == (200, "true")
        wanted["Access-Control-Request-Headers"] = "authorization,x-other"
        assert ask(f"{url}/v1/models", "OPTIONS", wanted).status_code == 400
        assert ask(f"{url}/v1/models", "GET").headers["access-control-allow-credentials"] == "true"


def test_every_origin(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, cors=Cors(("*",))) as url:
        assert ask(f"{url}{CHAT}", "OPTIONS", PREFLIGHT).headers["access-control-allow-origin"] == "*"
        answer = ask(f"{url}{CHAT}", json=BODY, headers={"Origin": "null"})
        assert answer.headers["access-control-allow-origin"] == "*"
