"""A rank's pulse: how much its main thread has done so far. This module must not know who is told."""

from __future__ import annotations

import threading

from ernie_backend.parallel.messages import Beat
from ernie_kernels.communicator import CollectiveCounter
from ernie_wire.processes import ProcessStat


class Pulse:
    """That of the thread that makes it; any thread may feel it.

    Attributes:
        collectives: for the rank's ``ProcessGroupConfig``.
    """

    def __init__(self) -> None:
        self.collectives = CollectiveCounter()
        self._thread = f"self/task/{threading.get_native_id()}"

    def beat(self) -> Beat:
        """Return the thread's figures of now."""
        stat = ProcessStat.read(self._thread)
        return Beat(stat.progress, self.collectives.count, is_held=stat.state in "Tt")
