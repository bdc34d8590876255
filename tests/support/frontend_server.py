"""The real frontend under the real uvicorn on a free loopback port, over a fake Triton; with fixtures.

A test module gets the fixtures by ``pytest_plugins = ("support.frontend_server",)``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn

from ernie_frontend.app import create_app
from ernie_frontend.settings import Settings
from ernie_frontend.workers import http_config
from fakes.triton_grpc import EventLoopThread, FakeTriton


@contextmanager
def running_frontend(loop: EventLoopThread, *triton_urls: str, **settings: Any) -> Iterator[str]:
    """Run a frontend over some Tritons; gives its base URL, ``http://127.0.0.1:PORT``."""
    told = Settings(triton_urls=triton_urls, **settings)
    server = uvicorn.Server(http_config(create_app(told), told, timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.run_coroutine_threadsafe(server.serve([listener]), loop.loop)
        loop.run(_until_started(server))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            serving.result(15)


async def _until_started(server: uvicorn.Server) -> None:
    while not server.started:
        await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def triton_loop() -> Iterator[EventLoopThread]:
    """The one event loop in which fakes and frontends run."""
    loop = EventLoopThread()
    yield loop
    loop.stop()


@pytest.fixture(scope="session")
def running_triton(triton_loop: EventLoopThread) -> Iterator[FakeTriton]:
    """A fake Triton for all tests; use ``triton``."""
    fake = FakeTriton()
    triton_loop.run(fake.start())
    yield fake
    triton_loop.run(fake.stop())


@pytest.fixture
def triton(running_triton: FakeTriton) -> FakeTriton:
    """The fake Triton, as new."""
    running_triton.reset()
    return running_triton


@pytest.fixture
def run_frontend(triton_loop: EventLoopThread) -> Callable[..., AbstractContextManager[str]]:
    """``running_frontend`` in the loop of the fakes."""
    return partial(running_frontend, triton_loop)


@pytest.fixture(scope="session")
def frontend(triton_loop: EventLoopThread, running_triton: FakeTriton) -> Iterator[str]:
    """The base URL of a frontend over ``triton``."""
    with running_frontend(triton_loop, running_triton.url, registry_ttl_s=0.0, max_body_bytes=1 << 20) as url:
        yield url
