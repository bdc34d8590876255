"""The engine loop: takes what has arrived, runs one step, sends its outputs and a heartbeat, and repeats."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_wire.messages import Cancel, Message, Output, Outputs

HEARTBEAT_S = 0.25


@dataclass(frozen=True)
class Arrivals:
    """Items of one turn: request ids to cancel, requests to submit, outputs of refused requests."""

    cancelled: tuple[str, ...]
    requests: tuple[RequestState, ...]
    refusals: tuple[Output, ...]


class Inbox:
    """What the loop is to do next: filled by other threads, emptied between two steps."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Cancel | RequestState | Output] = queue.SimpleQueue()

    def put(self, item: Cancel | RequestState | Output) -> None:
        """Hand an item to the loop; any thread may."""
        self._queue.put(item)

    def take(self, timeout_s: float) -> Arrivals:
        """Return all items, after waiting up to ``timeout_s`` for the first one.

        A request whose cancel is among them is left out.
        """
        items: list[Cancel | RequestState | Output] = []
        try:
            items.append(self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait())
            while True:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        cancelled = tuple(item.request_id for item in items if isinstance(item, Cancel))
        live = [item for item in items if item.request_id not in cancelled]
        return Arrivals(
            cancelled=cancelled,
            requests=tuple(item for item in live if isinstance(item, RequestState)),
            refusals=tuple(item for item in live if isinstance(item, Output)),
        )


class EngineLoop:
    """Drives an engine on the calling thread; ``send`` must not block."""

    def __init__(self, engine: Engine, inbox: Inbox, send: Callable[[Message], None]) -> None:
        self._engine = engine
        self._inbox = inbox
        self._send = send
        self._next_heartbeat = 0.0

    def run(self) -> NoReturn:
        """Run indefinitely; an error of a step is raised."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Do one turn; without work, wait for items until the next heartbeat is due."""
        idle_s = max(0.001, self._next_heartbeat - time.monotonic())
        outputs = self._accept(self._inbox.take(0.0 if self._engine.has_work else idle_s))
        if self._engine.has_work:
            outputs += self._engine.step()
        if outputs and not self._engine.has_work:
            self._send_heartbeat()  # before them: a client that has its answer finds no request running
        if outputs:
            self._send(Outputs(outputs))
        if time.monotonic() >= self._next_heartbeat:
            self._send_heartbeat()

    def _send_heartbeat(self) -> None:
        self._send(self._engine.heartbeat)
        self._next_heartbeat = time.monotonic() + HEARTBEAT_S

    def _accept(self, arrivals: Arrivals) -> tuple[Output, ...]:
        """Cancel and submit; return the refusals."""
        for request_id in arrivals.cancelled:
            self._engine.cancel(request_id)
        refused = (self._engine.submit(request) for request in arrivals.requests)
        return arrivals.refusals + tuple(output for output in refused if output is not None)
