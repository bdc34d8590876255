"""The engine loop: what has arrived, one step, what it made, a sign of life; again.

This module must not know sockets: what is sent goes through a function that never blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from ernie_backend.engine.engine import Engine
from ernie_backend.service.inbox import Arrivals, Inbox
from ernie_wire.messages import Message, Output, Outputs

HEARTBEAT_S = 0.25


class EngineLoop:
    """Drives an engine on the calling thread."""

    def __init__(self, engine: Engine, inbox: Inbox, send: Callable[[Message], None]) -> None:
        self._engine = engine
        self._inbox = inbox
        self._send = send
        self._next_heartbeat = 0.0

    def run(self) -> NoReturn:
        """Run for ever; whatever goes wrong in a step is raised."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Do one turn; without work, wait for some until the next heartbeat is due."""
        idle_s = max(0.001, self._next_heartbeat - time.monotonic())
        outputs = self._accept(self._inbox.take(0.0 if self._engine.has_work else idle_s))
        if self._engine.has_work:
            outputs += self._engine.step()
        if outputs:
            self._send(Outputs(outputs))
        if time.monotonic() >= self._next_heartbeat:
            self._send(self._engine.heartbeat)
            self._next_heartbeat = time.monotonic() + HEARTBEAT_S

    def _accept(self, arrivals: Arrivals) -> tuple[Output, ...]:
        """Cancel and submit; return the refusals."""
        for request_id in arrivals.cancelled:
            self._engine.cancel(request_id)
        refused = (self._engine.submit(request) for request in arrivals.requests)
        return arrivals.refusals + tuple(output for output in refused if output is not None)
