"""A frontend that answers nothing is told from one that answers late, or that it is not well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.serve import frontend
from ernie_cli.serve.frontend import wait_until_ready, watch_answers

DEADLINE_S = 60.0
SCALE = 0.02
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENCE_LIMIT_S", "_ANSWER_LIMIT_S", "_ASK_INTERVAL_S"):
        monkeypatch.setattr(frontend, name, getattr(frontend, name) * SCALE)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def unwell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def watched(handler: Handler, work: Callable[[str], Awaitable[None]]) -> None:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_one_that_answers_nothing_is_given_up() -> None:
    async def watch(url: str) -> None:
        with pytest.raises(CommandError, match="answered"):
            await asyncio.wait_for(watch_answers(url), DEADLINE_S)

    await watched(silent, watch)


async def test_one_that_is_not_well_is_left_alone() -> None:
    async def watch(url: str) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch_answers(url), 3 * frontend.SILENCE_LIMIT_S)
        await wait_until_ready(url, must_be_healthy=False)

    await watched(unwell, watch)


async def test_one_question_without_an_answer_is_forgiven() -> None:
    questions = 0

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal questions
        questions += 1
        await (silent if questions % 2 else unwell)(reader, writer)

    async def watch(url: str) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch_answers(url), 3 * frontend.SILENCE_LIMIT_S)

    await watched(forgetful, watch)
