"""What the engine loop is to do next: filled by other threads, emptied between two steps.

Cancels come out before submits, and a submit whose cancel came in the same round does not come out at all.
This module must not know sockets or the engine.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass

from ernie_backend.engine.request_state import RequestState
from ernie_wire.messages import Cancel, Output


@dataclass(frozen=True)
class Arrivals:
    """One round: request ids to cancel, requests to submit, outputs of requests that were refused."""

    cancelled: tuple[str, ...]
    requests: tuple[RequestState, ...]
    refusals: tuple[Output, ...]


class Inbox:
    """A queue of cancels, prepared requests and refusals."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Cancel | RequestState | Output] = queue.SimpleQueue()

    def put(self, item: Cancel | RequestState | Output) -> None:
        """Hand something to the loop; any thread may."""
        self._queue.put(item)

    def take(self, timeout_s: float) -> Arrivals:
        """Return everything that has come; waits for the first up to ``timeout_s``, 0 does not wait."""
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
