"""Rank 0's end of the socket to one other rank.

A thread reads; whoever owns the member sends from one thread. This module must not know what a message is for,
nor what is done about a rank that is lost.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from ernie_backend.parallel.local_rank import LocalRank
from ernie_backend.parallel.messages import CODEC, Beat, Failed, Here, Loaded, RankMessage
from ernie_backend.parallel.vital_signs import VitalSigns
from ernie_wire.codec import MessageError
from ernie_wire.frames import FrameError, receive_frame, send_frame

logger = logging.getLogger(__name__)


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
        self._socket = sock
        self._process = process

    def listen(self, lost: Callable[[str], None], moved: Callable[[], None]) -> None:
        """Begin to read; its signs of life count from now on.

        Args:
            lost: called with the cause, in words, when the rank has ended or must.
            moved: called when the rank has got on with its work.
        """
        self.signs.heard_at = self.signs.moved_at = time.monotonic()
        thread = threading.Thread(target=self._read, args=(lost, moved), name=self.name, daemon=True)
        thread.start()

    def send(self, message: RankMessage) -> None:
        """Send a message; to a rank that is gone it is lost, which the reader sees."""
        try:
            send_frame(self._socket, *CODEC.encode(message))
        except OSError as error:
            logger.info("%s takes no more messages: %s", self.name, error)

    def kill(self) -> None:
        """End the rank: its process if it is here, else its socket, which the rank follows."""
        if self._process is not None:
            self._process.kill()
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)  # closing would not wake the reader

    def _read(self, lost: Callable[[str], None], moved: Callable[[], None]) -> None:
        with self._socket:
            try:
                self._hear(lost, moved)
            except MessageError as error:
                lost(f"{self.name} sent {error}")
            except (OSError, FrameError) as error:
                logger.info("%s cannot be heard: %s", self.name, error)
        how = self._process.why_it_ended() if self._process else "closed its connection; its own log says why"
        lost(f"{self.name} {how}")

    def _hear(self, lost: Callable[[str], None], moved: Callable[[], None]) -> None:
        while (frame := receive_frame(self._socket)) is not None:
            self.signs.heard_at = time.monotonic()
            message = CODEC.decode(*frame)
            if isinstance(message, Failed):
                lost(f"{self.name}: {message.error}")
            elif isinstance(message, Here):
                self.is_here = True
            elif isinstance(message, Loaded):
                self.loaded = message
                self.signs.has_loaded = True
            elif isinstance(message, Beat) and self.signs.note(message):
                moved()
