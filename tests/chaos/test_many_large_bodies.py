"""A hundred bodies of 7 MiB at once, through the real service: refused in time, and forgotten."""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from support.serving import Serving
from support.triton_server import EMBEDDED

COUNT = 100
DEADLINE_S = 600.0
HEALTH_S = 30.0
"""For /health on two busy cores with other work; when each body was parsed it took 125 s."""
SPARE_BYTES = 200 << 20
BODY = b'{"model": "null", "max_tokens": 1, "prompt": [' + b"300," * 1_830_000 + b"300]}"


@pytest.fixture
def serving() -> Iterator[Serving]:
    service = Serving("serve", "--model", str(EMBEDDED / "weights"), "--host", "127.0.0.1", "--port", "0")
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.close()


async def post_all(url: str) -> collections.Counter[int]:
    limits = httpx.Limits(max_connections=COUNT)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S, limits=limits) as client:
        answers = await asyncio.gather(*(client.post("/v1/completions", content=BODY) for _ in range(COUNT)))
    return collections.Counter(answer.status_code for answer in answers)


@pytest.mark.full
@pytest.mark.timeout(DEADLINE_S)
def test_many_large_bodies(serving: Serving) -> None:
    (frontend,) = serving.descendants("ernie_frontend")
    is_over = threading.Event()
    times: list[float] = []
    statuses: set[int] = set()
    sizes = [frontend.memory_info().rss]

    def watch() -> None:
        with httpx.Client(base_url=serving.url, trust_env=False, timeout=DEADLINE_S) as client:
            while not is_over.wait(0.02):
                begin = time.monotonic()
                statuses.add(client.get("/health").status_code)
                times.append(time.monotonic() - begin)
                sizes.append(frontend.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answers = asyncio.run(post_all(serving.url))
        time.sleep(1)
    finally:
        is_over.set()
        watcher.join()
    assert answers == {400: COUNT}
    assert statuses == {200}
    assert max(times) < HEALTH_S
    assert max(sizes) - sizes[0] < 3 * SPARE_BYTES
    assert sizes[-1] - sizes[0] < SPARE_BYTES
