"""Rank 0's view of one other rank: its process, if that is on this machine, and the socket to it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from ernie_backend.parallel.liveness import RankLiveness
from ernie_backend.parallel.messages import CODEC, BarrierArrival, Failed, Heartbeat, Loaded, RankMessage
from ernie_wire.channel import Channel
from ernie_wire.processes import Exit

OnFailure = Callable[[str, int | None], None]
"""Takes the cause in words, and the signal that ended the rank, if one did."""
_END_S = 5.0
_ELSEWHERE = Exit("closed its connection; its own log says why")


class RankProcess:
    """A rank's process on this machine, and our end of its socket. It logs to our standard error."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it.

        Raises:
            OSError: the system cannot create a socket or a process.
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


class RankChannel:
    """The messages to and from one other rank.

    Attributes:
        liveness: of the rank; its name is the rank's in messages.
        has_arrived: its ``BarrierArrival`` was received.
        loaded: its ``Loaded``, or None until then.
    """

    def __init__(self, name: str, sock: socket.socket, process: RankProcess | None = None) -> None:
        """Take over a socket; ``process`` is the rank's if it is on this machine."""
        self.liveness = RankLiveness(name)
        self.has_arrived = False
        self.loaded: Loaded | None = None
        self._process = process
        self._channel = Channel(sock, CODEC, name)

    def listen(self, on_failure: OnFailure, on_progress: Callable[[], None]) -> None:
        """Begin to read, on a thread of its own; the rank's silence counts from now on.

        Args:
            on_failure: called when the rank has ended or must.
            on_progress: called when the rank has made progress.
        """
        self.liveness.heard_at = self.liveness.progressed_at = time.monotonic()
        self._channel.listen(partial(self._receive, on_failure, on_progress), partial(self._end, on_failure))

    def send(self, message: RankMessage) -> None:
        """Send a message. One to a rank that is gone is lost: the reading thread notices the end."""
        self._channel.send(message)

    def kill(self) -> None:
        """End the rank: its process if that is on this machine, otherwise its socket, which ends it too."""
        if self._process is not None:
            self._process.kill()
        self._channel.break_off()

    def _receive(self, on_failure: OnFailure, on_progress: Callable[[], None], message: RankMessage) -> None:
        self.liveness.heard_at = time.monotonic()
        if isinstance(message, Failed):
            on_failure(f"{self.liveness.name}: {message.error}", None)
        elif isinstance(message, BarrierArrival):
            self.has_arrived = True
        elif isinstance(message, Loaded):
            self.loaded = message
            self.liveness.has_loaded = True
        elif isinstance(message, Heartbeat) and self.liveness.update(message):
            on_progress()

    def _end(self, on_failure: OnFailure, fault: Exception | None) -> None:
        if fault is not None:
            on_failure(f"{self.liveness.name} sent {fault}", None)
        end = self._process.how_it_ended() if self._process else _ELSEWHERE
        on_failure(f"{self.liveness.name} {end.words}", end.signal)
