"""The backstop for clients that go away without a ``control`` cancel.

Triton is asked whether a request is cancelled, which is a round trip through its one monitor thread, so the
rate is limited: each request at most every ``REQUEST_INTERVAL_S``, all together at most one every
``POLL_INTERVAL_S``. The asking itself is done by the answer's sender thread. No lock: the table of requests
has its own.
"""

from __future__ import annotations

import threading

from ernie_stub.in_flight import InFlight

POLL_INTERVAL_S = 0.01
REQUEST_INTERVAL_S = 0.1


class CancellationPoll:
    """A thread that has the requests in flight asked, in turn."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancellation-poll", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = REQUEST_INTERVAL_S
        while not self._stopping.wait(pause_s):
            answer = self._in_flight.next_to_poll(REQUEST_INTERVAL_S)
            if answer is not None:
                answer.poll_cancellation()
            pause_s = POLL_INTERVAL_S if answer is not None else REQUEST_INTERVAL_S / 2
