"""Slots for requests in flight, counted over all worker processes of a frontend.

Slot i is a POSIX lock on byte i of one file that all workers open: the kernel counts, and takes the slots of a
worker that dies back. Must not know what a slot is for.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque


def slots_file() -> str:
    """Return the path of a new file for ``Slots``; it is gone when this process ends."""
    return f"/proc/{os.getpid()}/fd/{os.memfd_create('ernie-frontend-slots')}"


class Slots:
    """So many slots, shared by all processes that open the same file. Open it once in a process.

    Args:
        path: of ``slots_file``.
        number: how many slots there are; the same in all processes.
    """

    def __init__(self, path: str, number: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._not_ours = deque(range(number))

    def take(self) -> int | None:
        """Return a slot that nobody had, or None if there is none."""
        for _ in range(len(self._not_ours)):
            slot = self._not_ours.popleft()
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except (BlockingIOError, PermissionError):  # the two ways to say that another process has it
                self._not_ours.append(slot)
            else:
                return slot
        return None

    def give_back(self, slot: int) -> None:
        """Let others have a slot that ``take`` returned."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
        self._not_ours.appendleft(slot)

    def close(self) -> None:
        """Give back every slot of this process."""
        os.close(self._file)
