"""HTTP/1.1 by uvicorn and h11, with our own limits, and JSON errors for what is not HTTP/1.1.

h11 and not httptools, uvicorn's other parser, which drops the body of a request that offers another protocol
(``Upgrade: h2c``, as the JDK's client does by default) and does not limit headers. Of the 200 us of CPU time
that a streamed event takes, h11 costs 2 us more.
"""

from __future__ import annotations

import asyncio
import fcntl
import http
import json
import re
import struct
import termios
from typing import Any, Literal, TypeAlias, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ernie_frontend.http.connections import Connections
from ernie_frontend.http_errors import envelope
from ernie_frontend.settings import Settings
from ernie_wire.errors import InvalidRequest, ModelUnavailable

DRAIN = "drain"
"""Key, in the lifespan state, of the function that a connection calls when the server shuts down."""
MAX_HEADER_BYTES = 64 << 10
_MAX_SMALL_CHUNKS = 4096
_SMALL_CHUNK_BYTES = 64
_LINGER_S = 1.0
_MAX_REASON_CHARACTERS = 200
_SCHEME_AND_HOST = re.compile(rb"https?://[^/?]*", re.IGNORECASE)

_Wait: TypeAlias = Literal["request", "header", "answer", "reader"]
_Next: TypeAlias = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class Http1Protocol(H11Protocol):
    """A connection; uvicorn makes one for each client (``Config.http``).

    At any time the connection waits for one thing, and each has its own deadline: the next request, the rest of
    a header, or a client that does not read its answer ("reader"). Generating an answer has no deadline; the
    body has one in ``middleware.bodies``.

    Args:
        settings: has the deadlines.
        connections: those of this process.
        arguments: uvicorn's.
    """

    _is_refused = False
    _waits_for: _Wait | None = None
    _deadline: asyncio.TimerHandle | None = None
    _num_unsent = 0

    def __init__(self, settings: Settings, connections: Connections, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.conn = self._parser = _Parser(h11.SERVER, MAX_HEADER_BYTES)
        self._process_connections = connections
        self._delays_s: dict[_Wait, float] = {
            "request": settings.idle_timeout_s,
            "header": settings.header_timeout_s,
            "reader": settings.write_timeout_s,
        }

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Accept the connection, or answer 503 if there are too many."""
        super().connection_made(transport)
        if self._process_connections.admit(self):
            self._watch()
        else:
            error = ModelUnavailable("too many connections are open; try again later")
            self._refuse(error.status, json.dumps(envelope(error)).encode())
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection and its deadline."""
        self._process_connections.forget(self)
        self._set_deadline(None)
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close at once, idle as it is, to make room for a new connection."""
        self.transport.abort()

    def shutdown(self) -> None:
        """Close after the answer under way, and start the time limit of all answers."""
        super().shutdown()
        self.app_state[DRAIN]()

    def data_received(self, data: bytes) -> None:
        """Parse what came; after a refusal only the end of the connection is awaited."""
        if not self._is_refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # our own deadline replaces uvicorn's
        self._watch()

    def pause_writing(self) -> None:
        """Pause the answer until the client has read what was sent; asyncio calls this."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Continue the answer; asyncio calls this."""
        super().resume_writing()
        self._watch()

    def _watch(self) -> None:
        """Set the deadline of what the connection waits for now; an unchanged wait keeps its deadline."""
        waits_for = self._next_wait()
        if waits_for == self._waits_for or self._is_refused:
            return
        self._waits_for = waits_for
        self._process_connections.set_idle(self, is_idle=waits_for in ("request", "header"))
        self._num_unsent = self._count_unsent()
        self._set_deadline(self._delays_s.get(waits_for))

    def _next_wait(self) -> _Wait:
        if self.flow.write_paused or self.transport.is_closing():
            return "reader"
        if self.cycle is not None and not self.cycle.response_complete:
            return "answer"
        # The rest of a body that was answered before its end counts as a header: the application no longer
        # reads it, so its deadline does not apply.
        has_begun = self.conn.their_state is not h11.IDLE or bool(self.conn.trailing_data[0])
        return "header" if has_begun else "request"

    def _set_deadline(self, delay_s: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if delay_s is None else self.loop.call_later(delay_s, self._expire, delay_s)

    def _expire(self, delay_s: float) -> None:
        """Close, unless the client has read a part of its answer meanwhile: then start a new deadline."""
        num_unsent = self._count_unsent()
        if 0 < num_unsent < self._num_unsent:
            self._num_unsent = num_unsent
            self._set_deadline(delay_s)
        else:
            self.transport.abort()

    def _count_unsent(self) -> int:
        """Return the bytes that the client's machine has not acknowledged, also of the kernel's buffer.

        asyncio's buffer alone may be empty while the kernel's is full, and the client reads nothing.
        """
        descriptor = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return 0
        in_kernel: tuple[int] = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
        return self.transport.get_write_buffer_size() + in_kernel[0]

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP/1.1, and close: where the next request begins is unknown."""
        self._refuse(*self._parser.refusal(msg))

    def _refuse(self, status: int, body: bytes) -> None:
        self._is_refused = True
        if self.cycle is not None:
            self.cycle.disconnected = True  # discards what the application still sends
            self.cycle.message_event.set()
        # h11 allows an answer only before one has begun.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            reason = http.HTTPStatus(status).phrase.encode()
            head = h11.Response(status_code=status, headers=[*headers, ("Connection", "close")], reason=reason)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        # Closing while the client still sends would reset the connection, and the client would lose the answer.
        # So close our direction only, and keep reading for a moment.
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self.transport.abort)


class _Parser(h11.Connection):
    """h11's parser, which ignores offers of other protocols (RFC 9110 7.8) and limits what it accepts."""

    _refused: h11.RemoteProtocolError | None = None
    _num_chunks = 0
    _num_body_bytes = 0

    def next_event(self) -> _Next:
        """Return h11's next event, with requests as ``_normalized``.

        Raises:
            h11.RemoteProtocolError: it is not HTTP/1.1, or above a limit.
        """
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._num_chunks = self._num_body_bytes = 0
                return _normalized(event)
            if isinstance(event, h11.Data):
                self._count(event)
        except h11.RemoteProtocolError as error:
            self._refused = error
            raise
        return event

    def _count(self, data: h11.Data) -> None:
        """Refuse a body of tiny chunks: each costs the event loop as much time as a large one."""
        self._num_chunks += data.chunk_start
        self._num_body_bytes += len(data.data)
        if self._num_chunks > max(_MAX_SMALL_CHUNKS, self._num_body_bytes // _SMALL_CHUNK_BYTES):
            raise h11.RemoteProtocolError(
                f"the body has {self._num_chunks} chunks of less than {_SMALL_CHUNK_BYTES} bytes on average;"
                " send larger ones"
            )

    def refusal(self, otherwise: str) -> tuple[int, bytes]:
        """Return status and body of the answer to a refused request; ``otherwise`` is uvicorn's reason."""
        error = self._refused
        reason, status = (str(error), error.error_status_hint) if error is not None else (otherwise, 400)
        if len(reason) > _MAX_REASON_CHARACTERS:  # h11 quotes the whole line
            reason = f"{reason[:_MAX_REASON_CHARACTERS]}..."
        return status, json.dumps(envelope(InvalidRequest(reason))).encode()


def _normalized(request: h11.Request) -> h11.Request:
    """Check a request; return it without an ``Upgrade`` and without scheme and host in its target."""
    if not request.http_version.startswith(b"1."):
        version = request.http_version.decode("ascii")
        raise h11.RemoteProtocolError(f"HTTP/{version} is not supported; use HTTP/1.1", 505)
    size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    if size > MAX_HEADER_BYTES:
        raise h11.RemoteProtocolError(
            f"the header has {size} bytes; at most {MAX_HEADER_BYTES} are accepted", 431
        )
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
        # Request smuggling: a proxy in front may use the other one, and so see other requests (RFC 9112 6.3).
        raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding contradict each other; send one")
    target = request.target
    if host := _SCHEME_AND_HOST.match(target):  # absolute form, which servers must accept (RFC 9112 3.2.2)
        target = target[host.end() :]
        target = target if target.startswith(b"/") else b"/" + target
    headers = [field for field in request.headers if field[0] != b"upgrade"]
    if target == request.target and len(headers) == len(request.headers):
        return request
    return h11.Request(
        method=request.method, target=target, headers=cast("Any", headers), http_version=request.http_version
    )
