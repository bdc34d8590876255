"""A rank's process on this machine: started, and ended. Its log goes where ours goes.

This module must not know what is said on its socket.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence

from ernie_wire.processes import Exit

_END_S = 5.0


class LocalRank:
    """A rank process and our end of its socket."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it.

        Raises:
            OSError: the system gives no socket or no process.
        """
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                rank_command(["--socket-fd", str(theirs.fileno())]),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once, stopped or not."""
        self._process.kill()

    def how_it_ended(self) -> Exit:
        """Return how the process ended; kills it if it has not ended."""
        try:
            return Exit.of(self._process.wait(_END_S))
        except subprocess.TimeoutExpired:
            self.kill()
            return Exit("closed its socket and did not end")


def rank_command(arguments: Sequence[str]) -> list[str]:
    """Return the command of a rank process."""
    return [sys.executable, "-m", "ernie_backend.parallel", *arguments]
