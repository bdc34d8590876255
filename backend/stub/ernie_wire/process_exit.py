"""The signals that ask a process to end, and how a process ended."""

from __future__ import annotations

import signal
from typing import NamedTuple


def end_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end and are not ignored, as ``nohup`` ignores SIGHUP."""
    asking = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in asking if signal.getsignal(number) is not signal.SIG_IGN]


class Exit(NamedTuple):
    """How a process ended.

    Attributes:
        words: what goes after its name: ``was ended by SIGTERM``.
        signal: the number of the signal that ended it, or None.
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
