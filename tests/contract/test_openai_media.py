"""Images and videos over HTTP: by URL or as data, checked before anything is fetched or sent to Triton."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from ernie_frontend.settings import MediaRules
from fakes.triton_grpc import EventLoopThread, FakeTriton, Inference, Response, ready_model, tell
from support import http
from support.media_server import MediaServer, media_server, response
from support.waiting import eventually

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
CHAT = "/v1/chat/completions"
PICTURE = bytes(range(256)) * 4
PRIVATE = MediaRules(allow_private=True)
SECRET = "s3cret"


@pytest.fixture
def server(triton_loop: EventLoopThread) -> Iterator[MediaServer]:
    """What media are fetched from, at 127.0.0.1."""
    running = media_server()
    media = triton_loop.run(running.__aenter__())
    media.answers["/"] = response(PICTURE)
    yield media
    triton_loop.run(running.__aexit__(None, None, None))


@pytest.fixture
def seeing(triton: FakeTriton) -> FakeTriton:
    """A Triton with a model that reads images and videos."""
    limits = {"image": 3, "video": 1}
    model = ready_model(modalities=("text", "image", "video"), limit_mm_per_prompt=limits)
    triton.models = {"ernie-tiny": model}
    return triton


@pytest.fixture
def frontend_with_media(run_frontend: RunFrontend, seeing: FakeTriton) -> Iterator[str]:
    """A frontend over ``seeing`` that may fetch from this machine."""
    with run_frontend(seeing.url, registry_ttl_s=0.0, media=PRIVATE) as url:
        yield url


def url_of(server: MediaServer, path: str = "/") -> str:
    return server.url(path, host="127.0.0.1")


def chat(*urls: str, kind: str = "image_url", **fields: Any) -> dict[str, Any]:
    parts = [{"type": kind, kind: {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}], **fields}


def post(url: str, body: dict[str, Any], path: str = CHAT) -> httpx.Response:
    return http.post(f"{url}{path}", json=body)


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_an_image_by_url_and_one_as_data(
    frontend_with_media: str, seeing: FakeTriton, server: MediaServer
) -> None:
    data = "data:image/png;base64," + base64.b64encode(PICTURE[:100]).decode()
    for stream in (False, True):
        body = chat(url_of(server), data, n=2, stream=stream, mm_processor_kwargs={"max_pixels": 50_000})
        assert post(frontend_with_media, body).status_code == 200
    assert [each.inputs["media"] for each in seeing.inferences] == [[PICTURE, PICTURE[:100]]] * 4
    sent = seeing.inferences[0].messages
    assert sent["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"media": 0}},
        {"type": "image_url", "image_url": {"media": 1}},
        {"type": "text", "text": "What?"},
    ]
    assert sent["mm_processor_kwargs"] == {"max_pixels": 50_000}
    assert len(server.requests) == 2  # once for both answers


def test_the_official_client(frontend_with_media: str, seeing: FakeTriton, server: MediaServer) -> None:
    client = openai.OpenAI(base_url=f"{frontend_with_media}/v1", api_key="null", max_retries=0)
    content: Any = chat(url_of(server))["messages"][0]["content"]
    content.append({"type": "video_url", "video_url": {"url": url_of(server), "fps": 1}})
    messages: Any = [{"role": "user", "content": content}]
    answer = client.chat.completions.create(model="default", messages=messages)
    assert answer.choices[0].message.content == "Beijing."
    assert seeing.inferences[0].inputs["media"] == [PICTURE, PICTURE]


def test_tokenize(frontend_with_media: str, seeing: FakeTriton, server: MediaServer) -> None:
    assert post(frontend_with_media, chat(url_of(server)), "/tokenize").status_code == 200
    assert seeing.inferences[0].inputs["media"] == [PICTURE]


def test_media_that_are_not_part_of_the_prompt_are_not_fetched(
    frontend_with_media: str, seeing: FakeTriton, server: MediaServer
) -> None:
    assert post(frontend_with_media, chat(url_of(server), prompt_token_ids=[1, 2])).status_code == 200
    assert "media" not in seeing.inferences[0].inputs
    assert server.requests == []


@pytest.mark.parametrize(
    ("modalities", "kind", "complaint"),
    [
        (("text",), "image_url", "this model reads text, and no images"),
        (("text",), "video_url", "this model reads text, and no videos"),
        (("text", "image"), "video_url", "this model reads text and images, and no videos"),
    ],
)
def test_a_model_that_does_not_read_it(
    frontend_with_media: str,
    triton: FakeTriton,
    server: MediaServer,
    modalities: tuple[str, ...],
    kind: str,
    complaint: str,
) -> None:
    triton.models = {"ernie-tiny": ready_model(modalities=modalities)}
    for path in (CHAT, "/tokenize"):
        error = error_of(post(frontend_with_media, chat(url_of(server), kind=kind), path))
        assert error["message"].startswith(f"messages[0].content[0]: {complaint}")
        assert (error["param"], error["code"]) == ("messages", "invalid_value")
    assert (server.requests, triton.inferences) == ([], [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"mm_processor_kwargs": {"max_pixels": "5"}}, "mm_processor_kwargs"),
        ({"tools": 5}, "tools"),
        ({"n": 200}, "n"),
    ],
)
def test_a_wrong_request_fetches_nothing(
    frontend_with_media: str, server: MediaServer, fields: dict[str, Any], param: str
) -> None:
    assert error_of(post(frontend_with_media, chat(url_of(server), **fields)))["param"] == param
    assert server.requests == []


def test_more_media_than_the_model_takes(
    frontend_with_media: str, seeing: FakeTriton, server: MediaServer
) -> None:
    error = error_of(post(frontend_with_media, chat(*[url_of(server)] * 4)))
    assert error["message"].startswith("Too many image items in prompt, got 4 but limit is 3")
    assert error["param"] == "messages"
    assert server.requests == []


def test_private_addresses_are_refused_by_default(
    run_frontend: RunFrontend, seeing: FakeTriton, server: MediaServer
) -> None:
    with run_frontend(seeing.url) as url:
        error = error_of(post(url, chat(url_of(server))))
        assert (error["code"], error["param"]) == ("media_not_allowed", "messages")
        assert "messages[0].content[0]: 127.0.0.1 is not a public address" in error["message"]
        error = error_of(post(url, chat(server.url(host="localhost"))))
        assert (error["code"], error["param"]) == ("media_unavailable", "messages")
    assert (server.requests, seeing.inferences) == ([], [])


def test_a_failed_download_is_the_requests_error_and_no_secret_is_logged(
    frontend_with_media: str, seeing: FakeTriton, server: MediaServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "ernie_frontend")
    caplog.set_level("INFO", "httpx")
    server.answers[f"/{SECRET}?key={SECRET}"] = response(b"an internal page", "503 Unavailable")
    error = error_of(post(frontend_with_media, chat(url_of(server, f"/{SECRET}?key={SECRET}"), stream=True)))
    assert (error["code"], error["type"]) == ("media_unavailable", "invalid_request_error")
    place = "messages[0].content[0]"
    assert error["message"] == f"{place}: http://127.0.0.1:{server.port} answered with status 503"
    assert SECRET not in caplog.text
    assert seeing.inferences == []


def test_a_disconnect_cancels_the_downloads(
    frontend_with_media: str, seeing: FakeTriton, server: MediaServer
) -> None:
    has_begun, is_closed = threading.Event(), threading.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        has_begun.set()
        try:
            while True:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        finally:
            is_closed.set()

    server.answers["/"] = drip
    content = json.dumps(chat(url_of(server))).encode()
    with http.connected(frontend_with_media) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        assert has_begun.wait(30)
    assert is_closed.wait(30)
    assert seeing.inferences == []


def test_slow_hosts_do_not_keep_out_requests_without_urls(
    run_frontend: RunFrontend, seeing: FakeTriton, server: MediaServer
) -> None:
    is_over = threading.Event()

    async def silent(writer: asyncio.StreamWriter) -> None:
        while not is_over.is_set():
            await asyncio.sleep(0.005)
        writer.write(response(PICTURE))

    server.answers["/"] = silent
    with run_frontend(seeing.url, media=PRIVATE, max_concurrency=2) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, url, chat(url_of(server)))
        eventually(lambda: bool(server.requests))
        answer = post(url, chat(url_of(server)))
        assert error_of(answer, 429)["code"] == "queue_full"
        assert answer.headers["Retry-After"]
        assert post(url, chat()).status_code == 200
        assert post(url, chat("data:,x")).status_code == 200
        is_over.set()
        assert first.result(30).status_code == 200
        assert post(url, chat(url_of(server))).status_code == 200


def test_an_engine_that_starts_decides_itself(
    frontend_with_media: str, triton: FakeTriton, server: MediaServer
) -> None:
    triton.models = {"ernie-tiny": {"state": "starting", "detail": "", "generation": 0, "engine": None}}
    assert post(frontend_with_media, chat(*[url_of(server)] * 5)).status_code == 200
    assert triton.inferences[0].inputs["media"] == [PICTURE] * 5


@pytest.mark.parametrize("modalities", [("text",), ("text", "image")])
def test_bodies_may_be_larger_where_a_model_sees(
    run_frontend: RunFrontend, triton: FakeTriton, modalities: tuple[str, ...]
) -> None:
    triton.models = {"ernie-tiny": ready_model(modalities=modalities)}
    bodies = [chat("data:;base64," + "A" * size) for size in (2000, 40_000)]
    with run_frontend(triton.url, max_body_bytes=1000, max_media_body_bytes=30_000) as url:
        statuses = [post(url, body).status_code for body in bodies]
        assert post(url, chat()).status_code == 200
    assert statuses == ([200, 413] if "image" in modalities else [413, 413])


def test_many_answers_to_large_media(
    frontend_with_media: str, seeing: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ernie_frontend.routes.generation.MAX_MEDIA_BYTES", 100)
    data = "data:," + "x" * 30
    assert post(frontend_with_media, chat(data, n=3)).status_code == 200
    error = error_of(post(frontend_with_media, chat(data, n=4)))
    assert error["param"] == "n"
    assert "4 answers need 120 bytes" in error["message"]


def test_prompts_that_wait_take_only_so_much_memory(run_frontend: RunFrontend, seeing: FakeTriton) -> None:
    go_on = threading.Event()

    async def late(inference: Inference) -> AsyncIterator[Response]:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        async for each in tell(inference):
            yield each

    seeing.answer = late
    large = chat("data:," + "x" * 700)
    with run_frontend(seeing.url, max_held_prompt_bytes=1000) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, url, large)
        eventually(lambda: bool(seeing.inferences))
        assert "bytes of prompts and media" in error_of(post(url, large), 429)["message"]
        go_on.set()
        assert first.result(30).status_code == 200
        assert post(url, chat("data:," + "x" * 2000)).status_code == 200  # alone it may be larger


def test_usage_counts_the_tokens_of_media(frontend_with_media: str, seeing: FakeTriton) -> None:
    async def answer(inference: Inference, counts: tuple[int, int]) -> AsyncIterator[Response]:
        is_first = True
        async for each in tell(inference):
            assert isinstance(each, dict)
            of_media = {"num_image_tokens": counts[0], "num_video_tokens": counts[1]} if is_first else {}
            yield {**each, **of_media}
            is_first = False

    seeing.answer = partial(answer, counts=(5, 2))
    whole = post(frontend_with_media, chat("data:,x", n=2)).json()["usage"]["prompt_tokens_details"]
    assert whole == {"cached_tokens": 4, "image_tokens": 5, "video_tokens": 2}
    body = chat("data:,x", n=2, stream=True, stream_options={"include_usage": True})
    last = post(frontend_with_media, body).text.split("data: ")[-2]
    assert json.loads(last)["usage"]["prompt_tokens_details"] == whole


def test_models_show_what_they_read(frontend_with_media: str) -> None:
    (model,) = http.get(f"{frontend_with_media}/v1/models").json()["data"]
    assert model["modalities"] == ["text", "image", "video"]
    assert model["limit_mm_per_prompt"] == {"image": 3, "video": 1}
