"""The stub's end of the socket to the engine.

A thread of its own writes, so that ``send`` never blocks, not even on an engine that hangs; whoever owns the
link reads. There is no lock: the queue is thread-safe, and only one thread reads. This module must not know
what a message is for.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import threading
from collections.abc import Callable

from ernie_wire.errors import InvalidValue
from ernie_wire.frames import FrameTooLarge, receive_frame, send_frame
from ernie_wire.messages import CODEC, GenerateRequest, Message, Output

logger = logging.getLogger(__name__)


class EngineLink:
    """Messages to and from one engine process.

    Args:
        sock: our end of the socketpair; the link owns it from now on.
        silence_s: longest time without a byte from the engine, and for it to take a message.
        refuse: takes the last output of a request that no frame can hold; called by the writer's thread.
    """

    def __init__(self, sock: socket.socket, silence_s: float, refuse: Callable[[Output], None]) -> None:
        sock.settimeout(silence_s)
        self._refuse = refuse
        self._socket = sock
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._writer.start()

    def send(self, message: Message) -> None:
        """Queue a message; if the engine is gone it is lost, which the reader sees as the end."""
        self._outbox.put(message)

    def is_readable(self, timeout_s: float) -> bool:
        """Wait until ``receive`` has something, at most ``timeout_s``."""
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def receive(self) -> Message | None:
        """Return the next message, or None at the end of the stream.

        Raises:
            TimeoutError: no byte came within ``silence_s``.
            FrameError: what came is not a message.
        """
        try:
            frame = receive_frame(self._socket)
            return None if frame is None else CODEC.decode(*frame)
        except TimeoutError:
            raise
        except OSError:  # reset: the engine died with messages unread
            return None

    def finish_sending(self) -> None:
        """Let the engine see the end of the stream after what is queued."""
        self._outbox.put(None)

    def close(self) -> None:
        """Close the socket."""
        self.finish_sending()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # ends a write that waits for the engine
        except OSError:
            logger.debug("the engine's socket is closed already")
        self._writer.join()
        self._socket.close()

    def _write(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._send(message)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            logger.info("the engine takes no more messages: %s", error)
        except Exception:  # without its writer the stub would be dumb for ever; a new engine gets a new one
            logger.exception("a message cannot be sent; the engine is given up")
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, message: Message) -> None:
        try:
            send_frame(self._socket, *CODEC.encode(message))
        except FrameTooLarge as error:
            if not isinstance(message, GenerateRequest):
                raise
            refusal = InvalidValue(f"the request is too large for the engine: {error}")
            self._refuse(Output(message.request_id, error=refusal.to_line()))
