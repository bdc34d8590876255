"""The engine's end of the socket to the stub: one thread reads, one writes, the loop never waits for either.

The end of the socket is the end of the process, at once and wherever the loop is: the engine holds nothing that
outlives it. This module must not know what the messages are about.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

from ernie_wire.frames import FrameError, receive_frame, send_frame
from ernie_wire.messages import Message, Shutdown, from_frame, to_frame

logger = logging.getLogger(__name__)


class Connection:
    """Sends messages in order and hands received ones to ``receive``."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._receive: Callable[[Message], None] | None = None
        self._is_receiving = threading.Event()
        self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queue a message; never blocks."""
        self._outgoing.put(message)

    def receive_with(self, receive: Callable[[Message], None]) -> None:
        """Begin to hand messages to ``receive``, on the reader's thread; those that came before are kept."""
        self._receive = receive
        self._is_receiving.set()

    def flush(self) -> None:
        """Wait until everything queued is sent; nothing can be sent afterwards."""
        self._outgoing.put(None)
        self._writer.join()

    def _write(self) -> None:
        try:
            while (message := self._outgoing.get()) is not None:
                send_frame(self._socket, *to_frame(message))
        except OSError:
            _leave("the stub has closed the socket", 0)

    def _read(self) -> None:
        try:
            while (frame := receive_frame(self._socket)) is not None:
                message = from_frame(*frame)
                if isinstance(message, Shutdown):
                    _leave("the stub asks for the end", 0)
                self._hand_over(message)
        except (FrameError, KeyError, TypeError, ValueError) as error:
            _leave(f"the stub sent something that is no message: {error!r}", 1)
        except OSError:
            _leave("the socket is broken", 0)
        _leave("the socket has ended", 0)

    def _hand_over(self, message: Message) -> None:
        self._is_receiving.wait()
        if self._receive is not None:
            self._receive(message)


def _leave(reason: str, status: int) -> NoReturn:
    """End the process without waiting for the loop, which may be inside a long step."""
    logger.log(logging.ERROR if status else logging.INFO, "engine ends: %s", reason)
    logging.shutdown()
    os._exit(status)
