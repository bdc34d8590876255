"""Paths, methods and keys: HEAD wherever GET is, odd names of models, the two headers of a key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from fakes.triton_grpc import FakeTriton
from support import http

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
ODD_NAMES = (
    "x",
    "a/b",
    "a%2Fb",
    "/",
    "//",
    "%2F",
    "..",
    "..%2Fmodels",
    "%2e%2e%2fhealth",
    "%E6%A8%A1%E5%9E%8B",
    "%ff",
    "%00",
    "%0A",
    "ernie-tiny%0A",
    "%0Aernie-tiny",
    "ernie%0A-tiny",
    "%0D%0A",
    "%20",
    "%",
    "%zz",
    "ernie-tiny/",
    "ERNIE-TINY",
    "default",
    "x" * 50_000,
)


def ask(url: str, method: str = "GET", **named: Any) -> httpx.Response:
    return http.request(method, url, **named)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: name[:20])
def test_an_odd_name_of_a_model_is_not_found(frontend: str, triton: FakeTriton, name: str) -> None:
    answer = ask(f"{frontend}/v1/models/{name}")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("model_not_support", "unknown_url")
    assert len(error["message"]) < 300


def test_a_long_name_in_a_request_is_not_repeated_whole(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, served_model_name="ernie") as url:
        answer = ask(f"{url}/v1/completions", "POST", json={"prompt": "Hi", "model": "x" * 100_000})
    assert answer.status_code == 404
    assert len(answer.content) < 500


@pytest.mark.parametrize("name", ["baidu/ERNIE-4.5-0.3B", "模型", "a b"])
def test_a_served_name_is_found_however_it_is_spelled(
    run_frontend: RunFrontend, triton: FakeTriton, name: str
) -> None:
    with run_frontend(triton.url, served_model_name=name) as url:
        for spelled in (name, name.replace("/", "%2F"), "".join(f"%{byte:02x}" for byte in name.encode())):
            assert ask(f"{url}/v1/models/{spelled}").json()["id"] == name


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/metrics", "/health"])
def test_a_line_break_does_not_get_around_what_compares_paths(
    run_frontend: RunFrontend, triton: FakeTriton, path: str
) -> None:
    with run_frontend(triton.url, max_concurrency=0, metrics_port=1) as url:
        answer = ask(f"{url}{path}%0A", "POST" if "completions" in path else "GET", json={"prompt": "Hi"})
    assert answer.status_code == 404


GETS = ("/v1/models", "/v1/models/ernie-tiny", "/v1/models/x", "/health", "/ping", "/version", "/docs")


@pytest.mark.parametrize("path", [*GETS, "/openapi.json"])
def test_head_is_get_without_the_body(frontend: str, triton: FakeTriton, path: str) -> None:
    get, head = ask(f"{frontend}{path}"), ask(f"{frontend}{path}", "HEAD")
    assert (head.status_code, head.content) == (get.status_code, b"")
    left_out = ("date", "x-request-id", "server-timing")
    fields, expected = (
        [field for field in answer.headers.items() if field[0] not in left_out] for answer in (head, get)
    )
    assert fields == expected
    assert "content-length" in head.headers


def test_head_of_metrics_and_of_ill_health(frontend: str, triton: FakeTriton) -> None:
    assert int(ask(f"{frontend}/metrics", "HEAD").headers["content-length"]) > 1000
    triton.health = "Stub process 'x' is not healthy."
    for path in ("/health", "/ping"):
        assert ask(f"{frontend}{path}", "HEAD").status_code == 503


def test_head_where_only_post_is(frontend: str) -> None:
    assert ask(f"{frontend}/v1/completions", "HEAD").status_code == 405
    wrong = ask(f"{frontend}/v1/models", "PUT")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    wrong = ask(f"{frontend}/openapi.json", "POST")  # Starlette names HEAD by itself for this route
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer two"}, 200),
        ({"Authorization": "bearer  two"}, 200),
        ({"x-api-key": "one"}, 200),
        ({"X-API-Key": "two"}, 200),
        ({"x-api-key": "one", "Authorization": "Bearer wrong"}, 200),
        ({"x-api-key": "wrong", "Authorization": "Bearer one"}, 200),
        ({"x-api-key": "one", "Authorization": "Basic eDp5"}, 200),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "Bearer one"}, 401),
        ({"x-api-key": "one,two"}, 401),
        ({"x-api-key": "one\u00e9"}, 401),
        ({"Authorization": "x-api-key one"}, 401),
    ],
)
def test_a_key_in_either_header(
    run_frontend: RunFrontend, triton: FakeTriton, headers: dict[str, str], status: int
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    with run_frontend(triton.url, api_keys=("one", "two")) as url:
        answer = ask(f"{url}/v1/models", headers=sent)
    assert answer.status_code == status
    if status == 401:
        error = answer.json()["error"]
        assert (error["code"], answer.headers["www-authenticate"]) == ("invalid_api_key", "Bearer")
        assert "x-api-key: KEY" in error["message"]
