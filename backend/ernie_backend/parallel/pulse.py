"""A rank's pulse: how much its main thread has done so far. This module must not know who is told."""

from __future__ import annotations

import threading
from pathlib import Path

from ernie_backend.parallel.messages import Beat
from ernie_kernels.communicator import CollectiveCounter


class Pulse:
    """That of the thread that makes it; any thread may feel it.

    Attributes:
        collectives: for the rank's ``ProcessGroupConfig``.
    """

    def __init__(self) -> None:
        self.collectives = CollectiveCounter()
        self._stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")

    def beat(self) -> Beat:
        """Return the thread's figures of now."""
        after_name = self._stat.read_text().rpartition(")")[2].split()
        progress = tuple(int(after_name[field]) for field in (9, 11, 12))  # majflt, utime, stime: proc(5)
        return Beat(progress, self.collectives.count, is_held=after_name[0] in "Tt")
