"""The signals that ask a process to end. This module must not know how it ends."""

from __future__ import annotations

import signal


def end_signals() -> list[signal.Signals]:
    """Return those that are not ignored: ``nohup`` wants SIGHUP to be."""
    asking = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in asking if signal.getsignal(number) is not signal.SIG_IGN]
