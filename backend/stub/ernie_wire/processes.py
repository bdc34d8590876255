"""Processes of Linux: their figures in /proc, the signals that end them, and how they ended."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel signal this process, even a stopped one, when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def end_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end and are not ignored, as ``nohup`` ignores SIGHUP."""
    asking = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in asking if signal.getsignal(number) is not signal.SIG_IGN]


class ProcessStat(NamedTuple):
    """A process or a thread, as in proc(5).

    Attributes:
        pid: its id.
        name: the first 15 bytes of its name.
        state: ``T`` is stopped, ``t`` is traced, ``Z`` has ended and was not waited for.
        parent: id of its parent.
        group: id of its process group.
        progress: figures that grow while it works: pages read from a disk, CPU ticks in user and kernel mode.
        start_s: when it was started, in seconds after the machine was, to a clock tick (10 ms).
    """

    pid: int
    name: str
    state: str
    parent: int
    group: int
    progress: tuple[int, ...] = ()
    start_s: float = 0.0

    @classmethod
    def read(cls, process: int | str = "self") -> ProcessStat:
        """Read /proc/PROCESS/stat, where ``process`` may be ``PID/task/THREAD`` too.

        Raises:
            OSError: there is no such process any more.
        """
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
        before, _, after = stat.rpartition(")")  # the name may contain a parenthesis too
        pid, _, name = before.partition(" (")
        fields = after.split()  # the first is field 3 of proc(5), state
        progress = tuple(int(fields[number]) for number in (9, 11, 12))  # majflt, utime, stime
        start_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return cls(int(pid), name, fields[0], int(fields[1]), int(fields[2]), progress, start_s)


class Exit(NamedTuple):
    """How a process ended.

    Attributes:
        words: a predicate for messages: ``was ended by SIGTERM``.
        signal: number of the signal that ended it, or None.
    """

    words: str
    signal: int | None = None

    @classmethod
    def of(cls, returncode: int) -> Exit:
        """Return how a process ended; ``returncode`` as in ``subprocess``: its status, or minus a signal."""
        if returncode >= 0:
            return cls(f"exited with status {returncode}; its log says why")
        return cls(_by_signal(-returncode), -returncode)


def _by_signal(number: int) -> str:
    if number == signal.SIGKILL:
        return "was killed by SIGKILL, probably by the kernel because memory ran out (see dmesg)"
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:  # one of the real-time signals
        return f"was ended by signal {number}"
