"""Rank 0's end of the socket to one other rank.

This module must not know what a message is for, nor what is done about a rank that is lost.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial

from ernie_backend.parallel.local_rank import LocalRank
from ernie_backend.parallel.messages import CODEC, Beat, Failed, Here, Loaded, RankMessage
from ernie_backend.parallel.vital_signs import VitalSigns
from ernie_wire.channel import Channel
from ernie_wire.processes import Exit

Lost = Callable[[str, int | None], None]
"""Takes the cause in words, and the signal that ended the rank, if one did."""
_ELSEWHERE = Exit("closed its connection; its own log says why")


class Member:
    """One other rank.

    Attributes:
        name: for people.
        signs: its signs of life.
        is_here: its ``Here`` has come.
        loaded: its ``Loaded``; None until it has come.
    """

    def __init__(self, name: str, sock: socket.socket, process: LocalRank | None = None) -> None:
        """Take over a socket; ``process`` is the rank's if it is on this machine."""
        self.name = name
        self.signs = VitalSigns(name)
        self.is_here = False
        self.loaded: Loaded | None = None
        self._process = process
        self._channel = Channel(sock, CODEC, name)

    def listen(self, lost: Lost, moved: Callable[[], None]) -> None:
        """Begin to read; its signs of life count from now on.

        Args:
            lost: called when the rank has ended or must.
            moved: called when the rank has got on with its work.
        """
        self.signs.heard_at = self.signs.moved_at = time.monotonic()
        self._channel.listen(partial(self._hear, lost, moved), partial(self._end, lost))

    def send(self, message: RankMessage) -> None:
        """Send a message; to a rank that is gone it is lost, which the reader sees."""
        self._channel.send(message)

    def kill(self) -> None:
        """End the rank: its process if it is here, else its socket, which the rank follows."""
        if self._process is not None:
            self._process.kill()
        self._channel.break_off()

    def _hear(self, lost: Lost, moved: Callable[[], None], message: RankMessage) -> None:
        self.signs.heard_at = time.monotonic()
        if isinstance(message, Failed):
            lost(f"{self.name}: {message.error}", None)
        elif isinstance(message, Here):
            self.is_here = True
        elif isinstance(message, Loaded):
            self.loaded = message
            self.signs.has_loaded = True
        elif isinstance(message, Beat) and self.signs.note(message):
            moved()

    def _end(self, lost: Lost, fault: Exception | None) -> None:
        if fault is not None:
            lost(f"{self.name} sent {fault}", None)
        end = self._process.how_it_ended() if self._process else _ELSEWHERE
        lost(f"{self.name} {end.words}", end.signal)
