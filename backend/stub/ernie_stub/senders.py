"""The sender threads: the only ones that send responses to Triton.

A send blocks on a round trip to the server, so a few threads share the work; each answer is bound to one of
them, which keeps its responses in order. This module must not know what is sent. It has no lock: the queues
are thread-safe by themselves, and ``bind`` and ``close`` are called by Triton's own thread only.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

NUM_SENDERS = 4

logger = logging.getLogger(__name__)
Work = Callable[[], None]


class Senders:
    """A fixed number of threads, each with a queue of work."""

    def __init__(self, num_senders: int = NUM_SENDERS) -> None:
        self._queues: list[queue.SimpleQueue[Work | None]] = [queue.SimpleQueue() for _ in range(num_senders)]
        self._next = itertools.cycle(self._queues)
        self._threads = [
            threading.Thread(target=_run, args=(work,), name=f"sender-{index}", daemon=True)
            for index, work in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    def bind(self) -> Callable[[Work], None]:
        """Return the ``schedule`` function of one of the threads, in turn."""
        return next(self._next).put

    def close(self, timeout_s: float) -> None:
        """Finish the work already scheduled and end the threads, within a time."""
        deadline = time.monotonic() + timeout_s
        for work in self._queues:
            work.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("%s did not end within %g s", thread.name, timeout_s)


def _run(work: queue.SimpleQueue[Work | None]) -> None:
    while (job := work.get()) is not None:
        _do(job)


def _do(job: Work) -> None:
    try:
        job()
    except Exception:  # Triton raises what it likes, and the thread serves other requests too
        logger.exception("a response could not be sent")
