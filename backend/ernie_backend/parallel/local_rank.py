"""A rank's process on this machine: started, heard, ended.

Its standard error goes on to ours; the last lines are kept, since they tell best why it ended. This module must
not know what is said on its socket.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

_KEPT_LINES = 5
_END_S = 5.0


class LocalRank:
    """A rank process and our end of its socket."""

    def __init__(self, rank: int, environment: dict[str, str]) -> None:
        """Start it.

        Raises:
            OSError: the system gives no socket or no process.
        """
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                rank_command(["--socket-fd", str(theirs.fileno())]),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, name=f"stderr-of-rank-{rank}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once, stopped or not."""
        self._process.kill()

    def why_it_ended(self) -> str:
        """Return, in words, how the process ended and what it said last; kills it if it has not ended."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed its socket and did not end"
        self._listener.join(_END_S)
        last = " | ".join(self._last_lines)
        return _describe(status) + (f"; its last lines: {last}" if last else "")

    def _listen(self) -> None:
        stream = self._process.stderr
        if stream is not None:
            self._pass_on(stream)

    def _pass_on(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            sys.stderr.write(text + "\n")


def rank_command(arguments: Sequence[str]) -> list[str]:
    """Return the command of a rank process."""
    return [sys.executable, "-m", "ernie_backend.parallel", *arguments]


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    if -status == signal.SIGKILL:
        return "was killed by SIGKILL, probably by the kernel because memory ran out (see dmesg)"
    return f"was ended by {signal.Signals(-status).name}"
