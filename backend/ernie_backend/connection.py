"""The engine's end of the socket to the stub: one thread reads, one writes, the loop never waits for either.

The end of the socket is the end of the process, at once and wherever the loop is: the engine holds nothing that
outlives it. So is a fault in either thread: an engine that cannot hear or speak must not seem alive. This
module must not know what the messages are about.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

from ernie_wire.errors import InvalidValue
from ernie_wire.frames import FrameTooLarge, receive_frame, send_frame
from ernie_wire.messages import CODEC, Cancel, Message, Output, Outputs, Shutdown

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
                self._send_now(message)
        except OSError:
            _leave("the stub has closed the socket", 0)
        except Exception:
            logger.exception("a message cannot be sent")
            _leave("the writer failed", 1)

    def _send_now(self, message: Message) -> None:
        """Send a message; outputs that no frame holds go one by one, one too large as an error."""
        try:
            send_frame(self._socket, *CODEC.encode(message))
        except FrameTooLarge as error:
            if not isinstance(message, Outputs):
                raise
            if len(message.outputs) == 1:
                (output,) = message.outputs
                refusal = InvalidValue(f"the answer is too large: {error}; ask for fewer log probabilities")
                self._send_now(Outputs((Output(output.request_id, error=refusal.to_line()),)))
                self._hand_over(Cancel(output.request_id))
                return
            for output in message.outputs:
                self._send_now(Outputs((output,)))

    def _read(self) -> None:
        try:
            while (frame := receive_frame(self._socket)) is not None:
                message = CODEC.decode(*frame)
                if isinstance(message, Shutdown):
                    _leave("the stub asks for the end", 0)
                self._hand_over(message)
        except OSError:
            _leave("the socket is broken", 0)
        except Exception as error:
            logger.exception("a message cannot be read")
            _leave(f"the stub sent something that is no message: {error!r}", 1)
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
