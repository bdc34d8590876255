"""Bodies of many values or many bytes: refused before they cost anything, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_frontend.http import offload
from ernie_frontend.http.offload import MAX_VALUES, BodyReader, find_excess
from ernie_wire.errors import QueueFull
from fakes.triton_grpc import FakeTriton, ready_model
from support import http
from support.frontend_process import frontend_process

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
CONTEXT = 2048  # of the fake model
MANY = 1_300_000
LOADED_S = 5.0
"""What /health may take while large bodies are read, on a machine with other work; it was 10 to 36 s.

On a quiet one it takes less than 0.1 s. A machine that stops for a moment delays one question, not most.
"""
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def post(url: str, path: str, content: bytes) -> httpx.Response:
    return http.post(f"{url}{path}", content=content)


def ids(number: int) -> str:
    return f"[{','.join(['500'] * number)}]"


@pytest.mark.parametrize("number", [CONTEXT, CONTEXT + 5, MANY], ids=["context", "a little more", "5 MB"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, '{"prompt": IDS}'),
        (COMPLETIONS, '{"prompt_token_ids": IDS}'),
        (COMPLETIONS, '{"stream": true, "prompt":IDS, "max_tokens": 5}'),
        (CHAT, '{"messages": IDS}'),
        (CHAT, '{"prompt_token_ids" : IDS, "n": 2}'),
    ],
)
def test_too_many_token_ids_never_reach_triton(
    run_frontend: RunFrontend, triton: FakeTriton, path: str, body: str, number: int
) -> None:
    with run_frontend(triton.url) as url:
        answer = post(url, path, body.replace("IDS", ids(number)).encode())
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert f"maximum context length is {CONTEXT} tokens" in error["message"]
    assert f"({number} in the prompt" in error["message"]
    assert not triton.inferences


def test_a_prompt_that_just_fits_is_passed_on(frontend: str, triton: FakeTriton) -> None:
    assert post(frontend, COMPLETIONS, f'{{"prompt": {ids(CONTEXT - 1)}}}'.encode()).status_code == 200
    begun = f'{{"prompt": {ids(CONTEXT - 9)}, "completion_token_ids": {ids(8)}}}'
    assert post(frontend, COMPLETIONS, begun.encode()).status_code == 200
    begun = f'{{"prompt_token_ids": {ids(CONTEXT - 9)}, "completion_token_ids": {ids(9)}}}'
    for path in (COMPLETIONS, CHAT):
        assert post(frontend, path, begun.encode()).status_code == 400
    assert len(triton.inferences) == 2


def test_a_prompt_that_is_to_be_truncated_is_passed_on(frontend: str, triton: FakeTriton) -> None:
    description = ready_model()
    description["engine"]["longest_token_bytes"] = 2
    triton.models = {"ernie-tiny": description}
    for path, prompt in ((COMPLETIONS, ids(CONTEXT)), (CHAT, ids(CONTEXT)), (COMPLETIONS, f'"{"a" * 5000}"')):
        name = "messages" if path == CHAT else "prompt"
        body = f'{{"{name}": {prompt}, "truncate_prompt_tokens": -1}}'
        assert post(frontend, path, body.encode()).status_code == 200
    assert [inference.sampling for inference in triton.inferences] == [{"truncate_prompt_tokens": -1}] * 3


@pytest.mark.parametrize("spare", [0, -1])
def test_a_text_that_cannot_fit_never_reaches_triton(frontend: str, triton: FakeTriton, spare: int) -> None:
    """By the engine's rule: no token stands for more bytes than the longest."""
    description = ready_model()
    description["engine"]["longest_token_bytes"] = 30
    triton.models = {"ernie-tiny": description}
    text = "word\u00e9" * (30 * (CONTEXT - 1) // 6)
    texts = ["Hi", text + "x" * (30 * (CONTEXT - 1) - len(text.encode()) - spare)]
    for prompt in (texts[1], texts):
        answer = post(frontend, COMPLETIONS, json.dumps({"prompt": prompt, "max_tokens": 1}).encode())
        assert answer.status_code == (400 if spare else 200)
        if spare:
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
            assert f"({CONTEXT} or more in the prompt" in error["message"]
    assert bool(triton.inferences) == (not spare)


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": "a", "stop_token_ids": IDS}',
        '{"prompt": "a", "unknown": IDS}',
        '{"prompt": [[5],IDS]}',
        '{"prompt": "a", "metadata": {"x": {"prompt": "\\\\", "y": IDS}}}',
        '{"prompt": [' + '"a",' * MAX_VALUES + '"a"]}',
        '{"prompt": "a", "x": ' + "[" * MAX_VALUES + "]" * MAX_VALUES + "}",
    ],
    ids=["stop", "unknown", "second prompt", "after escapes", "strings", "nested"],
)
def test_other_bodies_of_too_many_values_are_not_read(
    run_frontend: RunFrontend, triton: FakeTriton, body: str
) -> None:
    with run_frontend(triton.url) as url:
        answer = post(url, COMPLETIONS, body.replace("IDS", ids(MANY)).encode())
    assert answer.status_code == 413
    assert str(MAX_VALUES) in answer.json()["error"]["message"]
    assert not triton.inferences


def test_commas_in_a_text_do_not_count(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    text = 'a,["\\' * MAX_VALUES
    with run_frontend(triton.url) as url:
        assert post(url, COMPLETIONS, json.dumps({"prompt": text}).encode()).status_code == 200
    assert triton.inferences[0].inputs["text_input"] == text


VALUES = st.recursive(
    st.none() | st.integers() | st.text('a,"\\[]{}:'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('a,"\\[]'), inner),
)


@given(value=VALUES)
def test_the_count_is_no_less_than_the_values(value: object) -> None:
    def count(value: object) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(count, inner))

    body = json.dumps(value, separators=(",", ":")).encode()
    num_values = count(value)
    assert find_excess(body, num_values - 1) is not None
    assert find_excess(body, 8 * num_values + body.count(b":") * 4) is None


@given(body=st.binary(max_size=40) | st.text('",[\\]').map(str.encode))
def test_any_bytes_are_counted(body: bytes) -> None:
    assert find_excess(body) is None


def test_health_is_told_while_large_bodies_come(triton: FakeTriton, tmp_path: Path) -> None:
    """As many values as are read, more than are, and long texts, to a frontend that is a process of its own."""
    bodies = [
        f'{{"prompt": "a", "stop_token_ids": {ids(MAX_VALUES - 100)}}}'.encode(),
        f'{{"prompt": {ids(MANY)}}}'.encode(),
        json.dumps({"prompt": "word, " * MANY}).encode(),
    ]
    command, port = [sys.executable, "-m", "ernie_frontend"], int(triton.url.rpartition(":")[2])
    with frontend_process(command, port, tmp_path / "log") as client, ThreadPoolExecutor(9) as clients:
        while client.get("/health").status_code != 200:
            time.sleep(0.05)
        url = str(client.base_url).rstrip("/")
        sent = [clients.submit(post, url, COMPLETIONS, bodies[number % 3]) for number in range(9)]
        times = []
        while not all(each.done() for each in sent):
            begin = time.monotonic()
            assert client.get("/health").status_code == 200
            times.append(time.monotonic() - begin)
    assert [each.result().status_code for each in sent] == [200, 400, 200] * 3
    assert statistics.median(times) < LOADED_S, times


async def test_work_on_a_large_body_leaves_the_event_loop_free() -> None:
    bodies, here = BodyReader(), threading.get_ident()
    assert await bodies.offload(offload.LARGE_BYTES, threading.get_ident) == here
    assert await bodies.offload(offload.LARGE_BYTES + 1, threading.get_ident) != here
    bodies.close()


@pytest.mark.parametrize(
    ("places", "num_pieces"),
    [(((256 << 10, 2),), 2 * 3 + 3 * 2), (((256 << 10, 3), (500 << 10, 2)), 3 * 3 + 2 * 2)],
    ids=["large", "very large"],
)
async def test_few_large_bodies_are_in_memory_at_once(
    monkeypatch: pytest.MonkeyPatch, places: tuple[tuple[int, int], ...], num_pieces: int
) -> None:
    """The others are not received meanwhile; they are told when it takes too long."""
    monkeypatch.setattr(offload, "_PLACES", places)
    monkeypatch.setattr(offload, "_PLACE_WAIT_S", 0.2)
    bodies, go_on = BodyReader(), asyncio.Event()
    num_received = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal num_received
        for number in range(4):
            if number == 3:
                await go_on.wait()
            num_received += 1
            yield b"x" * (200 << 10)

    def read(size: int) -> asyncio.Task[Any]:
        return asyncio.create_task(bodies.read(pieces(), len))

    tasks = [read(number) for number in range(5)]
    while sum(task.done() for task in tasks) < 3:
        await asyncio.sleep(0.01)
    done, placed = [task for task in tasks if task.done()], [task for task in tasks if not task.done()]
    assert [type(task.exception()) for task in done] == [QueueFull] * 3
    assert num_received == num_pieces
    go_on.set()
    assert [await task for task in placed] == [(800 << 10, 800 << 10)] * 2
    assert await read(0) == (800 << 10, 800 << 10)  # its place has come back
    bodies.close()
