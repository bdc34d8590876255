"""The requests in flight: which answer an output belongs to, and which requests wait for an engine.

Three modes, set by the engine's supervisor:

    connected    requests go to the engine at once
    holding      no engine at the moment, one is starting: requests wait, at most so many and so long
    refusing     no engine will come soon: requests get the reason at once

The lock guards all fields below it. The engine's ``send`` only queues, so it may be called with the lock held,
which keeps a Cancel behind its request. Answers are ended without the lock. This module must not know the
engine process, nor Triton.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from ernie_stub.response_stream import ResponseStream
from ernie_wire.errors import ErnieError, InvalidValue, ModelUnavailable, RequestCancelled
from ernie_wire.messages import Cancel, GenerateRequest, Message, Output

MAX_HELD = 256
MAX_HELD_BYTES = 256 << 20
HOLD_TIMEOUT_S = 60.0


class MessageSink(Protocol):
    """What takes messages for the engine without blocking."""

    def send(self, message: Message) -> None:
        """Queue a message."""


@dataclass
class _Entry:
    engine_id: str
    request: GenerateRequest | None  # as the engine sees it; None once it has it: prompts are large
    stream: ResponseStream
    expires_at: float
    polled_at: float


class InFlight:
    """All requests that were accepted and not yet answered to the end.

    The engine sees a request under an id of its own, ``<request_id>#<number>``: a client may use an id again
    right after a cancel, while outputs of the first request are still on their way.

    Args:
        max_held: most requests that wait for an engine.
        max_held_bytes: most bytes of their prompts; one alone may have more.
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
            ModelUnavailable: refusing, or too many requests wait.
        """
        with self._lock:
            if self._refusal is not None:
                raise type(self._refusal)(self._refusal.message)
            if request.request_id in self._engine_ids:
                raise InvalidValue(
                    f"request_id {request.request_id!r} is in flight already; ids must be unique, or be left "
                    "out",
                    "request_id",
                )
            now = self._clock()
            if self._engine is None:
                self._check_room(request.prompt_bytes)
            engine_id = f"{request.request_id}#{next(self._numbers)}"
            waiting = replace(request, request_id=engine_id)
            entry = _Entry(engine_id, waiting, stream, now + self._hold_timeout_s, now)
            self._entries[engine_id] = entry
            self._engine_ids[request.request_id] = engine_id
            if self._engine is not None:
                self._hand_over(self._engine, entry)

    def connect(self, engine: MessageSink) -> None:
        """An engine is ready: hand it what waits, and from now on everything."""
        with self._lock:
            if self._is_closed:
                return
            self._refusal = None
            self._engine = engine
            for entry in self._entries.values():
                self._hand_over(engine, entry)

    def hold(self) -> list[ResponseStream]:
        """No engine for now: let requests wait. Return the answers that the last engine leaves unfinished."""
        with self._lock:
            self._engine = None
            if not self._is_closed:
                self._refusal = None
            return self._take(entry for entry in self._entries.values() if entry.request is None)

    def refuse(self, reason: ErnieError) -> None:
        """No engine will come soon: end every request, and refuse new ones, with the reason."""
        with self._lock:
            self._engine = None
            self._refusal = reason
            streams = self._take(self._entries.values())
        for stream in streams:
            stream.fail(reason)

    def close(self, reason: ErnieError) -> None:
        """Refuse from now on, whatever becomes of the engine."""
        with self._lock:
            self._is_closed = True
        self.refuse(reason)

    def expire(self) -> None:
        """End the requests that have waited for an engine too long."""
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
        """Route the outputs of one engine step to their answers; outputs of ended requests are dropped."""
        for output in outputs:
            with self._lock:
                entry = self._entries.get(output.request_id)
                if entry is not None and output.is_last:
                    self._take((entry,))
            if entry is not None:
                entry.stream.put(output)

    def cancel(self, request_id: str) -> bool:
        """Stop a request and end its answer; False if no such request is in flight."""
        with self._lock:
            entry = self._entries.get(self._engine_ids.get(request_id, ""))
            if entry is None:
                return False
            self._stop(entry)
        entry.stream.fail(RequestCancelled(f"request {request_id} was cancelled"))
        return True

    def abandon(self, stream: ResponseStream) -> None:
        """Stop the request of an answer whose client has gone; nothing if it has ended.

        By then the client may have used its id for another request, which goes on.
        """
        with self._lock:
            entry = self._entries.get(self._engine_ids.get(stream.request_id, ""))
            if entry is None or entry.stream is not stream:
                return
            self._stop(entry)
        stream.fail(RequestCancelled(f"request {stream.request_id} was cancelled"))

    def holds(self, request_id: str) -> bool:
        """Whether a request was accepted and is not yet answered to the end."""
        with self._lock:
            return request_id in self._engine_ids

    def next_to_poll(self, interval_s: float) -> ResponseStream | None:
        """Return the answer whose client was asked after the longest ago, if that is ``interval_s`` or more."""
        now = self._clock()
        with self._lock:
            oldest = min(self._entries.values(), key=lambda entry: entry.polled_at, default=None)
            if oldest is None or now - oldest.polled_at < interval_s:
                return None
            oldest.polled_at = now
            return oldest.stream

    def _stop(self, entry: _Entry) -> None:
        """Remove a request and tell the engine; the lock is held by the caller."""
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
        """Remove requests from the table and return their answers; the lock is held by the caller."""
        streams = []
        for entry in list(chosen):
            del self._entries[entry.engine_id]
            del self._engine_ids[entry.stream.request_id]
            streams.append(entry.stream)
        return streams
