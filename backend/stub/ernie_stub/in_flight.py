"""The table of requests in flight: it routes outputs to response streams, and holds requests for an engine.

Three modes, set by the engine's supervisor:

    connected    requests go to the engine at once
    holding      an engine is starting: requests wait, within limits of number, bytes and time
    refusing     no engine is expected soon: requests fail at once, with the reason

The lock guards all fields below it. The engine's ``send`` only queues, so it may be called with the lock held,
which keeps a Cancel behind its request. Streams end without the lock, because their ends call back.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from ernie_stub.local_outputs import LocalFrontend
from ernie_stub.response_stream import ResponseStream
from ernie_wire.errors import ErnieError, InvalidValue, ModelUnavailable, RequestCancelled
from ernie_wire.messages import Cancel, GenerateRequest, Message, Output

MAX_HELD = 256
MAX_HELD_BYTES = 256 << 20
HOLD_TIMEOUT_S = 60.0
_RARELY = 20


class MessageSink(Protocol):
    """Queues messages for the engine, without blocking."""

    def send(self, message: Message) -> None:
        """Queue a message."""


@dataclass
class _Entry:
    engine_id: str
    request: GenerateRequest | None  # under ``engine_id``; None once the engine has it, as prompts are large
    stream: ResponseStream
    expires_at: float
    polled_at: float


class InFlight:
    """All requests that were accepted and are not yet answered completely.

    The engine gets a request under a unique id, ``<request_id>#<number>``: a client may reuse its id right
    after a cancel, while outputs of the first request are still on their way.

    Args:
        max_held: maximum number of requests that wait for an engine.
        max_held_bytes: maximum size of their prompts; a single one may be larger.
        hold_timeout_s: longest wait for an engine.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        max_held: int = MAX_HELD,
        max_held_bytes: int = MAX_HELD_BYTES,
        hold_timeout_s: float = HOLD_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_held = max_held
        self._max_held_bytes = max_held_bytes
        self._hold_timeout_s = hold_timeout_s
        self._clock = clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._engine: MessageSink | None = None
        self._refusal: ErnieError | None = None
        self._is_closed = False
        self._entries: dict[str, _Entry] = {}  # by the engine's id
        self._engine_ids: dict[str, str] = {}  # by the client's id

    def submit(self, request: GenerateRequest, stream: ResponseStream) -> None:
        """Accept a request: hand it to the engine, or hold it until there is one.

        Raises:
            InvalidValue: the id is in flight already.
            ModelUnavailable: requests are refused, or too many wait.
        """
        with self._lock:
            if self._refusal is not None:
                raise type(self._refusal)(self._refusal.message)
            if request.request_id in self._engine_ids:
                raise InvalidValue(
                    f"request_id {request.request_id!r} is in flight already; ids must be unique, or left out",
                    "request_id",
                )
            now = self._clock()
            if self._engine is None:
                self._check_room(request.prompt_bytes)
            engine_id = f"{request.request_id}#{next(self._numbers)}"
            renamed = replace(request, request_id=engine_id)
            entry = _Entry(engine_id, renamed, stream, now + self._hold_timeout_s, now)
            self._entries[engine_id] = entry
            self._engine_ids[request.request_id] = engine_id
            if self._engine is not None:
                self._hand_over(self._engine, entry)

    def connect(self, engine: MessageSink) -> None:
        """Start to use an engine: send it what waits, and from now on every request."""
        with self._lock:
            if self._is_closed:
                return
            self._refusal = None
            self._engine = engine
            for entry in self._entries.values():
                self._hand_over(engine, entry)

    def hold(self) -> list[ResponseStream]:
        """Let requests wait for the next engine; return the streams that the last one left unfinished."""
        with self._lock:
            self._engine = None
            if not self._is_closed:
                self._refusal = None
            return self._take(entry for entry in self._entries.values() if entry.request is None)

    def refuse(self, reason: ErnieError) -> None:
        """Fail every request, and refuse new ones, with ``reason``."""
        with self._lock:
            self._engine = None
            self._refusal = reason
            streams = self._take(self._entries.values())
        for stream in streams:
            stream.fail(reason)

    def close(self, reason: ErnieError) -> None:
        """Refuse from now on, also if an engine connects."""
        with self._lock:
            self._is_closed = True
        self.refuse(reason)

    def expire(self) -> None:
        """Fail the requests that have waited for an engine too long."""
        now = self._clock()
        with self._lock:
            streams = self._take(
                entry
                for entry in self._entries.values()
                if entry.request is not None and entry.expires_at <= now
            )
        for stream in streams:
            stream.fail(
                ModelUnavailable(f"the engine was not ready within {self._hold_timeout_s:g} s; retry later")
            )

    def deliver(self, outputs: Iterable[Output]) -> None:
        """Route the outputs of one engine step to their streams; those of ended requests are dropped."""
        frontends = set[LocalFrontend]()
        for output in outputs:
            with self._lock:
                entry = self._entries.get(output.request_id)
                if entry is not None and output.is_last:
                    self._take((entry,))
            if entry is not None:
                entry.stream.put(output)
                if entry.stream.frontend is not None:
                    frontends.add(entry.stream.frontend)
        for frontend in frontends:
            frontend.flush()  # what all its requests got, in one message

    def cancel(self, request_id: str) -> bool:
        """Cancel a request; False if it is not in flight."""
        with self._lock:
            entry = self._entries.get(self._engine_ids.get(request_id, ""))
            if entry is None:
                return False
            self._stop(entry)
        entry.stream.fail(RequestCancelled(f"request {request_id} was cancelled"))
        return True

    def abandon(self, stream: ResponseStream) -> None:
        """Cancel the request of a stream whose client disconnected, unless it has ended.

        The client may meanwhile have used its id for another request, which goes on.
        """
        with self._lock:
            entry = self._entries.get(self._engine_ids.get(stream.request_id, ""))
            if entry is None or entry.stream is not stream:
                return
            self._stop(entry)
        stream.fail(RequestCancelled(f"request {stream.request_id} was cancelled"))

    def abandon_all(self, frontend: LocalFrontend) -> None:
        """Cancel the requests of a frontend whose connection has ended."""
        with self._lock:
            entries = [entry for entry in self._entries.values() if entry.stream.frontend is frontend]
            for entry in entries:
                self._stop(entry)
        for entry in entries:
            entry.stream.fail(RequestCancelled(f"request {entry.stream.request_id} was cancelled"))

    def holds(self, request_id: str) -> bool:
        """Return whether a request is in flight."""
        with self._lock:
            return request_id in self._engine_ids

    def next_to_poll(self, interval_s: float) -> ResponseStream | None:
        """Return the stream whose poll is due for the longest time, or None.

        It is due ``interval_s`` after the last one; of a stream with a connection to its frontend, which says
        more, ``_RARELY`` times as long.
        """
        now = self._clock()

        def due_at(entry: _Entry) -> float:
            return entry.polled_at + interval_s * (1 if entry.stream.frontend is None else _RARELY)

        with self._lock:
            first = min(self._entries.values(), key=due_at, default=None)
            if first is None or due_at(first) > now:
                return None
            first.polled_at = now
            return first.stream

    def _stop(self, entry: _Entry) -> None:
        """Remove a request and cancel it in the engine; the caller holds the lock."""
        self._take((entry,))
        if self._engine is not None:
            self._engine.send(Cancel(entry.engine_id))

    def _check_room(self, num_bytes: int) -> None:
        waiting = [entry.request.prompt_bytes for entry in self._entries.values() if entry.request is not None]
        number, total = len(waiting), sum(waiting)
        if waiting and (number >= self._max_held or total + num_bytes > self._max_held_bytes):
            raise ModelUnavailable(
                f"the engine is starting, and {number} requests wait for it with {total} bytes; retry"
            )

    @staticmethod
    def _hand_over(engine: MessageSink, entry: _Entry) -> None:
        if entry.request is not None:
            engine.send(entry.request)
            entry.request = None

    def _take(self, chosen: Iterable[_Entry]) -> list[ResponseStream]:
        """Remove requests from the table and return their streams; the caller holds the lock."""
        streams = []
        for entry in list(chosen):
            del self._entries[entry.engine_id]
            del self._engine_ids[entry.stream.request_id]
            streams.append(entry.stream)
        return streams
