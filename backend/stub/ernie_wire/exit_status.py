"""Why a process ended, in words. This module must not know whose process it was."""

from __future__ import annotations

import signal


def describe_exit(returncode: int) -> str:
    """Return what goes after a process's name: ``was ended by SIGTERM``.

    Args:
        returncode: as ``subprocess`` has it: the exit status, or minus the number of a signal.
    """
    if returncode >= 0:
        return f"exited with status {returncode}; its log says why"
    if -returncode == signal.SIGKILL:
        return "was killed by SIGKILL, probably by the kernel because memory ran out (see dmesg)"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:  # one of the real-time signals
        return f"was ended by signal {-returncode}"
