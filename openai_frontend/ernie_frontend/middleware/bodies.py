"""An ASGI middleware that limits the size and the duration of request bodies, and decompresses them.

A body is decompressed piece by piece as it is read, so a small one cannot expand beyond the limit in memory.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.http_errors import BodyTooLarge, BodyTooSlow, UnsupportedEncoding, error_response
from ernie_wire.errors import ErnieError, InvalidRequest

_PIECE_BYTES = 256 << 10
_MIN_BYTES_PER_S = 1024
_GZIP = 16 + zlib.MAX_WBITS
"""zlib's code for gzip, including the checksum."""
_MAX_MEMBERS = 1024
"""A small member costs as much time as a large one; bgzip, which writes many, puts up to 64 KiB into each."""


class Bodies:
    """Answers 413 to bodies above a limit and 415 to unknown encodings; passes bodies on decompressed.

    The limit holds for the announced size, the bytes received and the bytes decompressed. A body that stalls
    gets 408.

    Args:
        app: what answers.
        small_bytes: no body up to this size is refused.
        max_body_bytes: returns the limit, which depends on the served models; called for a larger one.
        timeout_s: window in which a body must bring 1 KiB per second on average, or its end.
    """

    def __init__(
        self, app: ASGIApp, small_bytes: int, max_body_bytes: Callable[[], Awaitable[int]], timeout_s: float
    ) -> None:
        self._app = app
        self._small_bytes = small_bytes
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a wrapped ``receive``, or answer 413 or 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = _Limit(self._small_bytes, self._max_body_bytes)
        try:
            announced = headers.get("content-length", "")
            if announced.isdecimal():
                await limit.check(int(announced))
            is_compressed = _is_compressed(",".join(headers.getlist("content-encoding")))
        except ErnieError as error:
            await error_response(error)(scope, receive, send)
            return
        progress = _Progress(receive, self._timeout_s)
        body = _Body(progress.receive, limit, is_compressed=is_compressed)
        await self._app(scope, body.receive, send)


def _is_compressed(encoding: str) -> bool:
    """Return whether a Content-Encoding is gzip, or its alias ``x-gzip`` (RFC 9110 8.4.1.3).

    Raises:
        UnsupportedEncoding: it is neither gzip nor identity.
    """
    codings = [
        coding for word in encoding.split(",") if (coding := word.strip().lower()) not in ("", "identity")
    ]
    if codings and codings not in (["gzip"], ["x-gzip"]):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:40]!r} is not supported; send gzip, or the body as it is"
        )
    return bool(codings)


class _Limit:
    """The largest size of one body, which is looked up if the body is not small."""

    def __init__(self, small_bytes: int, max_body_bytes: Callable[[], Awaitable[int]]) -> None:
        self._limit = small_bytes
        self._look_up: Callable[[], Awaitable[int]] | None = max_body_bytes

    async def check(self, size: int) -> None:
        """Raise BodyTooLarge for a size above the limit."""
        if size <= self._limit:
            return
        if self._look_up is not None:
            self._limit, self._look_up = await self._look_up(), None
        if size > self._limit:
            raise BodyTooLarge(f"the request body has {size} bytes or more; at most {self._limit} are accepted")


class _Progress:
    """Receives a body with a minimum rate.

    Only the time spent waiting for the client counts: the application may take as long as it likes between two
    messages.
    """

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._is_complete = False
        self._begin_window()

    def _begin_window(self) -> None:
        self._waited_s, self._num_bytes = 0.0, 0

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            BodyTooSlow: the client stalls.
        """
        if self._is_complete:
            return await self._receive()  # only a disconnect can follow, which has no deadline
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._timeout_s - self._waited_s))
        except asyncio.TimeoutError:
            raise BodyTooSlow(
                f"the request body stalled: {self._num_bytes} bytes in {self._timeout_s:g} s;"
                f" at least {_MIN_BYTES_PER_S} per second are required"
            ) from None
        self._waited_s += clock() - begin_s
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._num_bytes >= self._timeout_s * _MIN_BYTES_PER_S:
            self._begin_window()
        return message


class _Body:
    """A body as the application receives it: within the limit, and decompressed."""

    def __init__(self, receive: Receive, limit: _Limit, *, is_compressed: bool) -> None:
        self._receive = receive
        self._limit = limit
        self._num_received = 0
        self._gunzip = _Gunzip() if is_compressed else None
        self._decompressed: Iterator[Message] = iter(())

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            BodyTooLarge: the bytes received, or decompressed, exceed the limit.
            InvalidRequest: the body is not gzip, or is cut short.
        """
        while True:
            for message in self._decompressed:
                if self._gunzip is not None:
                    await self._limit.check(self._gunzip.num_bytes)
                await asyncio.sleep(0)  # a piece takes about 1 ms: let other tasks run in between
                return message
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            data: bytes = message.get("body", b"")
            self._num_received += len(data)
            await self._limit.check(self._num_received)
            if self._gunzip is None:
                return message
            self._decompressed = self._messages(self._gunzip, data, is_last=not message.get("more_body", False))

    def _messages(self, gunzip: _Gunzip, data: bytes, *, is_last: bool) -> Iterator[Message]:
        for piece in gunzip.pieces(data):
            yield {"type": "http.request", "body": piece, "more_body": True}
        if is_last:
            gunzip.check_complete()
            yield {"type": "http.request", "body": b"", "more_body": False}


class _Gunzip:
    """Decompresses gzip (RFC 1952): the joined contents of its members.

    Attributes:
        num_bytes: of the content so far.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._num_members = 1
        self._inflate = zlib.decompressobj(_GZIP)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of further compressed bytes, at most ``_PIECE_BYTES`` at a time.

        Raises:
            InvalidRequest: they are not gzip, or have too many members.
        """
        while data:
            if self._inflate.eof:
                self._begin_member()
            try:
                piece = self._inflate.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise InvalidRequest(f"the request body is not gzip: {error}") from None
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self.num_bytes += len(piece)
            if piece:
                yield piece

    def _begin_member(self) -> None:
        self._num_members += 1
        if self._num_members > _MAX_MEMBERS:
            raise InvalidRequest(
                f"the request body has more than {_MAX_MEMBERS} members of gzip; compress it as one"
            )
        self._inflate = zlib.decompressobj(_GZIP)

    def check_complete(self) -> None:
        """Raise InvalidRequest if the last member has not ended."""
        if not self._inflate.eof:
            raise InvalidRequest("the request body is not gzip: it ends too early")
