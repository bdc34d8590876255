"""Clients that connect and drop, through the real frontend, Triton and engine, leave nothing behind.

They drop in every phase, streamed or not: before the request is whole, queued, prefilling, decoding.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import psutil
import pytest
import tritonclient.grpc as grpc_client

from support.paths import DATA, DENSE
from support.serving import Serving
from support.waiting import eventually

ENTRY = "dense"
CONCURRENCY = 48
MAX_TOKENS = 1400
MAX_NUM_SEQS = 8  # the engine's default
SPARE_DESCRIPTORS = 8
"""How many more descriptors a process may hold than after the first drops: pools and caches of libraries."""


class House:
    """A running service, and what its parts tell about themselves."""

    def __init__(self) -> None:
        self.serving = Serving(
            *("serve", "--model", str(DENSE), "--host", "127.0.0.1", "--port", "0", "--dtype", "float32")
        )

    def wait_until_ready(self) -> None:
        self.url = self.serving.wait_until_ready()
        self._triton = grpc_client.InferenceServerClient(self.serving.triton_url)

    def close(self) -> None:
        self.serving.close()

    def health(self) -> dict[str, Any]:
        """Ask the stub, past the frontend."""
        question = grpc_client.InferInput("control", [1], "BYTES")
        question.set_data_from_numpy(np.array([b'{"op": "health"}'], np.object_))
        answers: list[tuple[Any, Any]] = []
        self._triton.start_stream(lambda result, error: answers.append((result, error)))
        self._triton.async_stream_infer(ENTRY, [question])
        eventually(lambda: bool(answers))
        self._triton.stop_stream()
        result, error = answers[0]
        assert error is None, error
        answer: dict[str, Any] = json.loads(result.as_numpy("control_output")[0])
        return answer

    def become_idle(self) -> None:
        """Wait until all dropped clients are forgotten, by an engine that has survived them."""
        eventually(self._is_idle, lambda: f"not idle: {self.health()}")
        eventually(lambda: self.num_clients() == 0, lambda: f"{self.num_clients()} connections are open")
        log = "\n".join(self.serving.output)
        assert self.health()["generation"] == 1, log
        assert "Traceback" not in log, log

    def _is_idle(self) -> bool:
        health = self.health()
        return (health["running"], health["waiting"], health["free_blocks"]) == (0, 0, health["total_blocks"])

    def descriptors(self) -> dict[str, int]:
        """Return the open descriptors of every process of the service."""
        processes = [self.serving.process, *self.serving.process.children(recursive=True)]
        return {f"{process.pid} {process.cmdline()}": process.num_fds() for process in processes}

    def num_clients(self) -> int:
        """Return how many connections to the frontend are open on its side."""
        port = urlsplit(self.url).port
        connections = [
            connection
            for process in [self.serving.process, *self.serving.process.children(recursive=True)]
            for connection in process.net_connections("tcp")
        ]
        return sum(
            connection.laddr.port == port and connection.status != psutil.CONN_LISTEN
            for connection in connections
        )


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    running = House()
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()


def _request(chance: random.Random) -> bytes:
    """Return a whole HTTP request: a prompt that often begins as others do, and a long answer."""
    shared = chance.randrange(0, 200)
    prompt = [*range(100, 100 + shared), *(chance.randrange(100, 500) for _ in range(chance.randrange(1, 300)))]
    body = {"model": "null", "prompt": prompt, "max_tokens": MAX_TOKENS, "ignore_eos": True}
    content = json.dumps({**body, "stream": chance.random() < 0.6}).encode()
    head = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


async def _drop(url: str, chance: random.Random) -> None:
    """Be one client that goes away without a word."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    request = _request(chance)
    phase = chance.choice(["half a request", "queued", "prefilling", "decoding"])
    if phase == "half a request":
        request = request[: chance.randrange(len(request))]
    writer.write(request)
    await writer.drain()
    if phase == "prefilling":
        await asyncio.sleep(chance.random() * 0.05)
    if phase == "decoding":
        await asyncio.sleep(chance.random())
    writer.transport.abort()


async def _drop_many(url: str, count: int, seed: int) -> None:
    places = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int) -> None:
        async with places:
            await _drop(url, random.Random(f"{seed} {number}"))

    await asyncio.gather(*(one(number) for number in range(count)))


def _greedy(url: str) -> list[int]:
    with np.load(DATA / "dense.npz") as goldens:
        prompt = goldens["row0.input_ids"].tolist()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="null", max_retries=0) as client:
        answer = client.completions.create(
            model="null",
            prompt=prompt,
            max_tokens=32,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
    ids: list[int] = answer.model_dump()["choices"][0]["completion_token_ids"]
    return ids


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_dropped_clients_leave_nothing_behind(house: House, count: int) -> None:
    asyncio.run(_drop_many(house.url, 2 * CONCURRENCY, seed=1))
    house.become_idle()
    before, steps_before = house.descriptors(), house.health()["steps"]
    asyncio.run(_drop_many(house.url, count, seed=2))
    house.become_idle()
    num_steps = house.health()["steps"] - steps_before
    assert 0 < num_steps < count * MAX_TOKENS / MAX_NUM_SEQS / 4, "most of the work was not done"
    after = house.descriptors()
    assert after.keys() == before.keys(), "no process has died or stayed"
    grown = {name: after[name] - before[name] for name in after}
    assert max(grown.values()) <= SPARE_DESCRIPTORS, grown
    assert httpx.get(f"{house.url}/health", timeout=30).status_code == 200
    with np.load(DATA / "dense.npz") as goldens:
        assert _greedy(house.url) == goldens["row0.greedy"].tolist()
