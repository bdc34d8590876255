"""An ASGI middleware that bounds request bodies, and decompresses those that are compressed.

A body is decompressed as it is read, a piece at a time, so that a few bytes never take more memory than the
limit. A client that stalls in the middle of its body is not waited for. Must not know what a body means.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.http_errors import BodyTooLarge, BodyTooSlow, UnsupportedEncoding, error_response
from ernie_wire.errors import ErnieError, InvalidRequest

_PIECE_BYTES = 256 << 10
_LEAST_BYTES_PER_S = 1024
_GZIP = 16 + zlib.MAX_WBITS
"""zlib's word for gzip, checksum included."""
_MOST_MEMBERS = 1024
"""Each costs as much time as a large one; those who write many (bgzip) put up to 64 KiB into each."""


class Bodies:
    """Answers 413 to bodies above a limit and 415 to unknown encodings; passes bodies on decompressed.

    The bytes that come are counted, announced or not, and so are those that they become. A body that does not
    come gets 408.

    Args:
        app: what answers.
        max_body_bytes: the limit.
        timeout_s: in each such time that the application waits, a body must bring a KiB a second, or its end.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a ``receive`` of its own, or answer 413 or 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            announced = headers.get("content-length", "")
            if announced.isdecimal():
                _check_size(int(announced), self._max_body_bytes)
            is_compressed = _is_compressed(",".join(headers.getlist("content-encoding")))
        except ErnieError as error:
            await error_response(error)(scope, receive, send)
            return
        progress = _Progress(receive, self._timeout_s)
        body = _Body(progress.receive, self._max_body_bytes, is_compressed=is_compressed)
        await self._app(scope, body.receive, send)


def _is_compressed(encoding: str) -> bool:
    """Whether a Content-Encoding is gzip's; ``x-gzip`` is its other name (RFC 9110 8.4.1.3).

    Raises:
        UnsupportedEncoding: it is another one.
    """
    codings = [
        coding for word in encoding.split(",") if (coding := word.strip().lower()) not in ("", "identity")
    ]
    if codings and codings not in (["gzip"], ["x-gzip"]):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:40]!r} is not understood; send gzip, or the body as it is"
        )
    return bool(codings)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"the request body has {size} bytes or more; at most {limit} are accepted")


class _Progress:
    """Receives a body from its client, who must not stall."""

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._is_complete = False
        self._begin_window()

    def _begin_window(self) -> None:
        self._waited_s, self._num_bytes = 0.0, 0

    async def receive(self) -> Message:
        """Return the next message; only the waits for the client count, not what the application does between.

        Raises:
            BodyTooSlow: the client stalls.
        """
        if self._is_complete:
            return await self._receive()  # the client's going, for which there is no deadline
        begin_s = time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._timeout_s - self._waited_s))
        except asyncio.TimeoutError:
            raise BodyTooSlow(
                f"the rest of the request body did not come: {self._num_bytes} bytes in {self._timeout_s:g} s;"
                f" at least {_LEAST_BYTES_PER_S} a second are waited for"
            ) from None
        self._waited_s += time.monotonic() - begin_s
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._num_bytes >= self._timeout_s * _LEAST_BYTES_PER_S:
            self._begin_window()
        return message


class _Body:
    """One body, as the application receives it."""

    def __init__(self, receive: Receive, limit: int, *, is_compressed: bool) -> None:
        self._receive = receive
        self._limit = limit
        self._num_received = 0
        self._gunzip = _Gunzip() if is_compressed else None
        self._decompressed: Iterator[Message] = iter(())

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            BodyTooLarge: the limit is passed, by what came or by what it becomes.
            InvalidRequest: the body is not gzip, or not all of it.
        """
        while True:
            for message in self._decompressed:
                await asyncio.sleep(0)  # a piece takes about a millisecond: others have their turn between two
                return message
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            data: bytes = message.get("body", b"")
            self._num_received += len(data)
            _check_size(self._num_received, self._limit)
            if self._gunzip is None:
                return message
            self._decompressed = self._messages(self._gunzip, data, is_last=not message.get("more_body", False))

    def _messages(self, gunzip: _Gunzip, data: bytes, *, is_last: bool) -> Iterator[Message]:
        for piece in gunzip.pieces(data):
            _check_size(gunzip.num_bytes, self._limit)
            yield {"type": "http.request", "body": piece, "more_body": True}
        if is_last:
            gunzip.check_complete()
            yield {"type": "http.request", "body": b"", "more_body": False}


class _Gunzip:
    """Reads gzip (RFC 1952): one member or several, whose contents are joined.

    Attributes:
        num_bytes: of the content so far.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._num_members = 1
        self._inflate = zlib.decompressobj(_GZIP)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what some more of the compressed bytes become, ``_PIECE_BYTES`` at a time at most.

        Raises:
            InvalidRequest: they are not gzip, or too many members.
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
        if self._num_members > _MOST_MEMBERS:
            raise InvalidRequest(
                f"the request body has more than {_MOST_MEMBERS} members of gzip; compress it as one"
            )
        self._inflate = zlib.decompressobj(_GZIP)

    def check_complete(self) -> None:
        """Raise InvalidRequest if the last member has not ended."""
        if not self._inflate.eof:
            raise InvalidRequest("the request body is not gzip: it ends too early")
