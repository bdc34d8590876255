"""Fetches all media of a request at once, within limits of bytes, time and number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol
from weakref import WeakValueDictionary

import httpx

from ernie_frontend.media.downloads import Downloader, Resolve, SystemResolver
from ernie_frontend.media.local_files import read_local_file
from ernie_frontend.settings import MediaRules
from ernie_wire.data_urls import read_data_url
from ernie_wire.errors import InvalidRequest, InvalidValue, QueueFull
from ernie_wire.messages import MAX_MEDIA_BYTES, MAX_MEDIUM_BYTES

_SMALL_CHARACTERS = 32 << 10  # decoding less takes no longer than a thread switch
_NUM_THREADS = 2
_MAX_SCHEME_CHARACTERS = 32
Take = Callable[[int], None]
"""Counts bytes that arrived; raises if they are too many."""


class DownloadSlots(Protocol):
    """The requests that may download at a time."""

    def acquire(self) -> int | None:
        """Return a slot that was free, or None."""

    def release(self, slot: int) -> None:
        """Free a slot."""


class MediaFetcher:
    """Fetches the media of one process' requests; use it inside one event loop.

    Args:
        rules: where media may come from, and limits.
        slots: one is held by each request that downloads, so that slow hosts cannot take all of the server's.
        resolve: finds the addresses of hosts; None: the system does.
    """

    def __init__(self, rules: MediaRules, slots: DownloadSlots, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._slots = slots
        self._resolver = SystemResolver()
        self._downloader = Downloader(rules, resolve or self._resolver)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "media")
        self._places = asyncio.Semaphore(rules.max_downloads)
        self._places_of_hosts: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()
        self._num_held_bytes = 0

    async def close(self) -> None:
        """Close all connections, and stop the threads after their current work."""
        await self._downloader.close()
        self._resolver.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, urls: Mapping[str, str]) -> tuple[bytes, ...]:
        """Return the contents of URLs, in their order.

        Nothing is fetched unless all of them are allowed. If one fails, the others are cancelled, as they are
        with this call.

        Args:
            urls: by their places in the request, ``messages[1].content[0]``, which errors name.

        Raises:
            InvalidRequest: a URL is wrong or not allowed, cannot be fetched, or there are too many bytes.
            QueueFull: too many media are being fetched.
        """
        checked = {where: self._checked(where, url.strip()) for where, url in urls.items()}
        has_downloads = any(isinstance(url, httpx.URL) for url in checked.values())
        with self._slot(is_needed=has_downloads), self._counted() as take:
            tasks = [asyncio.create_task(self._fetch(where, url, take)) for where, url in checked.items()]
            try:
                return tuple(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _checked(self, where: str, url: str) -> httpx.URL | str:
        """Return a URL to download, or the text of a ``data:`` or ``file:`` URL."""
        scheme, colon, _ = url[:_MAX_SCHEME_CHARACTERS].partition(":")
        with _placed(where):
            if not colon:
                raise InvalidValue(
                    "that is not a URL; send base64 as data:image/png;base64,..., or an https URL"
                )
            if scheme.lower() in ("data", "file"):
                return url
            if scheme.lower() not in ("http", "https"):
                raise InvalidValue(f"URLs of {scheme!r} are not supported; send https, http or data")
            return self._downloader.checked(url)

    async def _fetch(self, where: str, url: httpx.URL | str, take: Take) -> bytes:
        with _placed(where):
            if isinstance(url, httpx.URL):
                async with self._place(url.raw_host):
                    return await self._downloader.download(url, take)
            content = await self._read(url)
            if len(content) > MAX_MEDIUM_BYTES:
                raise InvalidValue(f"it has {len(content)} bytes; at most {MAX_MEDIUM_BYTES} are allowed")
            take(len(content))
            return content

    async def _read(self, url: str) -> bytes:
        """Return the content of a ``data:`` or ``file:`` URL, without blocking the event loop."""
        run = asyncio.get_running_loop().run_in_executor
        if url[:5].lower() == "file:":
            return await run(self._threads, read_local_file, url, self._rules.local_directory, MAX_MEDIUM_BYTES)
        if len(url) <= _SMALL_CHARACTERS:
            return read_data_url(url)
        return await run(self._threads, read_data_url, url)

    @contextmanager
    def _slot(self, *, is_needed: bool) -> Iterator[None]:
        slot = self._slots.acquire() if is_needed else None
        if slot is None and is_needed:
            raise QueueFull("too many requests are downloading images or videos; try again later")
        try:
            yield
        finally:
            if slot is not None:
                self._slots.release(slot)

    @contextmanager
    def _counted(self) -> Iterator[Take]:
        """Give the counter of one request's bytes."""
        num_bytes = 0

        def take(number: int) -> None:
            nonlocal num_bytes
            num_bytes += number
            self._num_held_bytes += number
            if num_bytes > MAX_MEDIA_BYTES:
                raise InvalidValue(f"the media of this request have more than {MAX_MEDIA_BYTES} bytes together")
            if self._num_held_bytes > self._rules.max_held_bytes:
                raise QueueFull("too many bytes of images and videos are being fetched; try again later")

        try:
            yield take
        finally:
            self._num_held_bytes -= num_bytes

    @asynccontextmanager
    async def _place(self, host: bytes) -> AsyncIterator[None]:
        """Wait until a download may begin; one host alone cannot take all places."""
        of_host = self._places_of_hosts.get(host)
        if of_host is None:
            of_host = self._places_of_hosts[host] = asyncio.Semaphore(self._rules.max_downloads_per_host)
        async with (
            _acquired(of_host, self._rules.place_wait_s),
            _acquired(self._places, self._rules.place_wait_s),
        ):
            yield


@asynccontextmanager
async def _acquired(places: asyncio.Semaphore, wait_s: float) -> AsyncIterator[None]:
    try:
        await asyncio.wait_for(places.acquire(), wait_s)
    except asyncio.TimeoutError:
        raise QueueFull("too many images and videos are being downloaded; try again later") from None
    try:
        yield
    finally:
        places.release()


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Name the place in the request in an error about it."""
    try:
        yield
    except InvalidRequest as error:
        raise type(error)(f"{where}: {error.message}", "messages") from None
