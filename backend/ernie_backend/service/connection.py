"""The engine's end of the socket to the stub; the loop never waits for it.

The end of the socket ends the process, at once and wherever the loop is: the engine holds nothing that outlives
it. So does a fault in either thread: an engine that cannot receive or send must not seem alive.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

from ernie_wire.channel import Channel
from ernie_wire.errors import InvalidValue
from ernie_wire.frames import FrameTooLarge
from ernie_wire.messages import CODEC, Cancel, Message, Output, Outputs, Shutdown

logger = logging.getLogger(__name__)


class Connection:
    """Sends messages in order and hands received ones to ``receive``."""

    def __init__(self, sock: socket.socket) -> None:
        self._receive: Callable[[Message], None] | None = None
        self._is_receiving = threading.Event()
        self._channel = Channel(sock, CODEC, "the stub", has_writer=True, instead=self._smaller)
        self._channel.listen(self._hear, _end)

    def send(self, message: Message) -> None:
        """Queue a message; never blocks."""
        self._channel.send(message)

    def flush(self) -> None:
        """Wait until everything queued is sent; nothing can be sent afterwards."""
        self._channel.flush()

    def receive_with(self, receive: Callable[[Message], None]) -> None:
        """Begin to hand messages to ``receive``, on the reader's thread; earlier ones wait until then."""
        self._receive = receive
        self._is_receiving.set()

    def _hear(self, message: Message) -> None:
        if isinstance(message, Shutdown):
            _leave("the stub asks for the end", 0)
        self._is_receiving.wait()
        if self._receive is not None:
            self._receive(message)

    def _smaller(self, message: Message, error: FrameTooLarge) -> tuple[Outputs, ...]:
        """Return outputs that are too large together one by one, and one that is too large as an error."""
        if not isinstance(message, Outputs):
            raise error
        if len(message.outputs) > 1:
            return tuple(Outputs((output,)) for output in message.outputs)
        (output,) = message.outputs
        refusal = InvalidValue(f"the answer is too large: {error}; ask for fewer log probabilities")
        self._hear(Cancel(output.request_id))
        return (Outputs((Output(output.request_id, error=refusal.to_line()),)),)


def _end(fault: Exception | None) -> None:
    if fault is None:
        _leave("the stub has closed the socket", 0)
    else:
        _leave(f"it cannot talk to the stub: {fault!r}", 1)


def _leave(reason: str, status: int) -> NoReturn:
    """End the process without waiting for the loop, which may be inside a long step."""
    logger.log(logging.ERROR if status else logging.INFO, "engine ends: %s", reason)
    logging.shutdown()
    os._exit(status)
