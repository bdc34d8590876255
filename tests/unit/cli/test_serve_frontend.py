"""A frontend that answers nothing is told from one that answers late, or that it is not well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.serve import frontend
from ernie_cli.serve.frontend import wait_until_ready, watch_answers

DEADLINE_S = 60.0
NUM_QUESTIONS = 20
"""Many times as many as a frontend may leave unanswered."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "_ASK_INTERVAL_S", 0.01)


@contextlib.contextmanager
def closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close a connection at the end, which comes earlier if the other side has ended it with the test."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        yield
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        await reader.readuntil(b"\r\n\r\n")


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        await reader.read()


async def unwell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()


async def watched(handler: Handler, work: Callable[[str], Awaitable[None]]) -> None:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def watch_many(handler: Handler) -> None:
    """Watch a frontend until it was asked many times; raises what ``watch_answers`` does before."""
    has_asked_many = asyncio.Event()
    num_asked = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked > NUM_QUESTIONS:
            has_asked_many.set()
        await handler(reader, writer)

    async def watch(url: str) -> None:
        watching = asyncio.create_task(watch_answers(url))
        asked = asyncio.create_task(has_asked_many.wait())
        await asyncio.wait({watching, asked}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, asked):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        assert has_asked_many.is_set()

    await watched(counting, watch)


async def test_one_that_answers_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENCE_LIMIT_S", "_ANSWER_LIMIT_S"):
        monkeypatch.setattr(frontend, name, getattr(frontend, name) * 0.02)

    async def watch(url: str) -> None:
        with pytest.raises(CommandError, match="answered"):
            await asyncio.wait_for(watch_answers(url), DEADLINE_S)

    await watched(silent, watch)


async def test_one_that_is_not_well_is_left_alone() -> None:
    await watch_many(unwell)

    async def wait(url: str) -> None:
        await wait_until_ready(url, must_be_healthy=False)

    await watched(unwell, wait)


async def test_one_question_without_an_answer_is_forgiven() -> None:
    questions = 0

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal questions
        questions += 1
        await (hang_up if questions % 2 else unwell)(reader, writer)

    await watch_many(forgetful)


async def test_one_that_hangs_up_again_and_again_is_given_up() -> None:
    with pytest.raises(CommandError, match="answered"):
        await watch_many(hang_up)
