"""All media of a request: fetched at once, in their order, all or none, within limits."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ernie_frontend.http_errors import MediaNotAllowed, MediaUnavailable
from ernie_frontend.media import fetcher
from ernie_frontend.media.fetcher import MediaFetcher
from ernie_frontend.middleware.concurrency import Slots, slots_file
from ernie_frontend.settings import MediaRules
from ernie_wire.data_urls import read_data_url
from ernie_wire.errors import ErnieError, InvalidValue, QueueFull
from support.media_server import MediaServer, Resolver, media_server, response

TEXT = "data:text/plain,{}"


@pytest.fixture
async def server() -> AsyncIterator[MediaServer]:
    async with media_server() as server:
        yield server


@asynccontextmanager
async def media_fetcher(num_slots: int = 8, **rules: Any) -> AsyncIterator[MediaFetcher]:
    slots = Slots(slots_file(), num_slots)
    media = MediaFetcher(MediaRules(allow_private=True, **rules), slots, Resolver())
    try:
        yield media
    finally:
        await media.close()
        slots.close()


def placed(*urls: str) -> dict[str, str]:
    return {f"messages[{index}].content[0]": url for index, url in enumerate(urls)}


async def failure(media: MediaFetcher, *urls: str) -> ErnieError:
    with pytest.raises(ErnieError) as caught:
        await media.fetch(placed(*urls))
    return caught.value


async def test_media_of_all_kinds_in_their_order(server: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"file")
    is_second_there = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        await is_second_there.wait()
        writer.write(response(b"late"))

    async def early(writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"early"))
        is_second_there.set()

    server.answers = {"/late": late, "/early": early}
    async with media_fetcher(local_directory=tmp_path.resolve()) as media:
        urls = placed(
            server.url("/late"), TEXT.format("data"), f" {server.url('/early')}\n", f"FILE://{tmp_path}/a.png"
        )
        assert await media.fetch(urls) == (b"late", b"data", b"early", b"file")
        assert await media.fetch({}) == ()


async def test_a_large_data_url_is_decoded_outside_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def watched(url: str) -> bytes:
        threads.append(threading.get_ident())
        return read_data_url(url)

    monkeypatch.setattr(fetcher, "read_data_url", watched)
    data = b"x" * (1 << 20)
    async with media_fetcher() as media:
        large, small = await media.fetch(placed(f"data:;base64,{base64.b64encode(data).decode()}", "data:,x"))
    assert (large, small) == (data, b"x")
    assert [thread == threading.get_ident() for thread in threads] in ([False, True], [True, False])


@pytest.mark.parametrize(
    ("url", "kind", "complaint"),
    [
        ("iVBORw0KGgo=", InvalidValue, "not a URL; send base64 as data:image/png;base64,"),
        ("/etc/passwd", InvalidValue, "not a URL"),
        ("", InvalidValue, "not a URL"),
        ("s3://bucket/a.png", InvalidValue, "'s3' are not supported"),
        ("C:\\a.png", InvalidValue, "'C' are not supported"),
        ("data:image/png;base64,@", InvalidValue, "'@'"),
        ("file:///etc/passwd", MediaNotAllowed, "--allowed-local-media-path"),
        ("http://169.254.169.254/", MediaNotAllowed, "not an allowed address"),
        ("http://media.test:1025/", MediaUnavailable, "cannot be connected to"),
    ],
)
async def test_an_error_names_the_place(url: str, kind: type[ErnieError], complaint: str) -> None:
    async with media_fetcher() as media:
        error = await failure(media, "data:,x", url)
    assert type(error) is kind
    assert error.message.startswith("messages[1].content[0]: ")
    assert complaint in error.message
    assert error.param == "messages"


async def test_nothing_is_downloaded_if_one_url_is_not_allowed(server: MediaServer) -> None:
    async with media_fetcher() as media:
        await failure(media, server.url(), "ftp://media.test/")
    assert server.requests == []


async def test_a_failure_and_a_cancellation_end_the_other_downloads(server: MediaServer) -> None:
    has_begun, is_closed = asyncio.Event(), asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        has_begun.set()
        try:
            while True:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100)
                await writer.drain()
                await asyncio.sleep(0.001)
        finally:
            is_closed.set()

    async def missing(writer: asyncio.StreamWriter) -> None:
        await has_begun.wait()
        writer.write(response(b"", "404 Not Found"))

    server.answers = {"/endless": endless, "/missing": missing}
    async with media_fetcher() as media:
        assert "status 404" in (await failure(media, server.url("/endless"), server.url("/missing"))).message
        await is_closed.wait()
        has_begun.clear()
        is_closed.clear()
        task = asyncio.create_task(media.fetch(placed(server.url("/endless"))))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await is_closed.wait()
        assert media._num_held_bytes == 0


async def test_the_bytes_of_a_request_and_of_a_process_are_limited(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "MAX_MEDIUM_BYTES", 8)
    monkeypatch.setattr(fetcher, "MAX_MEDIA_BYTES", 20)
    server.answers["/"] = response(b"x" * 8)
    async with media_fetcher(max_held_bytes=15) as media:
        assert await media.fetch(placed(server.url())) == (b"x" * 8,)
        error = await failure(media, TEXT.format("y" * 9))
        assert isinstance(error, InvalidValue)
        assert "it has 9 bytes; at most 8" in error.message
        assert type(await failure(media, server.url(), server.url())) is QueueFull
        assert type(await failure(media, TEXT.format("y" * 8), TEXT.format("y" * 8))) is QueueFull
        assert await media.fetch(placed(server.url())) == (b"x" * 8,)  # and is not counted any more
    async with media_fetcher() as media:
        error = await failure(media, *[TEXT.format("y" * 7)] * 3)
        assert isinstance(error, InvalidValue)
        assert "more than 20 bytes together" in error.message


async def test_downloads_at_a_time_are_limited_in_all_and_for_each_host(server: MediaServer) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(response())

    server.answers["/"] = slow
    async with media_fetcher(max_downloads=3, max_downloads_per_host=2) as media:
        await media.fetch(placed(*[server.url()] * 8))
        assert server.max_open == 2
        await media.fetch(placed(*(server.url(host=f"{number}.test") for number in range(12))))
        assert server.max_open == 3
        assert len(media._places_of_hosts) == 0  # the names of clients are not kept


async def test_who_waits_too_long_for_a_download_to_begin_is_told_so(server: MediaServer) -> None:
    is_over = asyncio.Event()

    async def silent(writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        writer.write(response())

    server.answers["/"] = silent
    async with media_fetcher(max_downloads=1, place_wait_s=0.05) as media:
        first = asyncio.create_task(media.fetch(placed(server.url())))
        while not server.requests:
            await asyncio.sleep(0.001)
        error = await failure(media, server.url(host="other.test"))
        assert type(error) is QueueFull
        is_over.set()
        assert await first == (b"picture",)
        assert await media.fetch(placed(server.url())) == (b"picture",)


async def test_requests_that_download_have_slots_of_their_own(server: MediaServer) -> None:
    is_over = asyncio.Event()

    async def silent(writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        writer.write(response())

    server.answers["/"] = silent
    async with media_fetcher(num_slots=1) as media:
        first = asyncio.create_task(media.fetch(placed(server.url())))
        while not server.requests:
            await asyncio.sleep(0.001)
        assert "too many requests are downloading" in (await failure(media, server.url())).message
        assert await media.fetch(placed("data:,x")) == (b"x",)
        is_over.set()
        await first
        assert await media.fetch(placed(server.url())) == (b"picture",)


async def test_names_are_resolved_by_the_system() -> None:
    slots = Slots(slots_file(), 1)
    media = MediaFetcher(MediaRules(), slots)
    for host in ("localhost", "0x7f.1", "x." * 120, "a" * 70, "no-such-host.invalid"):
        error = await failure(media, f"http://{host}:1025/")
        assert type(error) is MediaUnavailable
        assert "cannot be resolved to a public address" in error.message
    await media.close()
    slots.close()
