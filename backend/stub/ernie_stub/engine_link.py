"""The stub's end of the socket to the engine.

A thread of its own writes, so that ``send`` never blocks, not even on an engine that hangs; whoever owns the
link reads. There is no lock: the queue is thread-safe, and only one thread reads. This module must not know
what a message is for.
"""

from __future__ import annotations

import logging
import queue
import select
import socket
import threading

from ernie_wire.frames import FrameError, receive_frame, send_frame
from ernie_wire.messages import Message, from_frame, to_frame

logger = logging.getLogger(__name__)


class EngineLink:
    """Messages to and from one engine process.

    Args:
        sock: our end of the socketpair; the link owns it from now on.
        silence_s: longest time without a byte from the engine, and for it to take a message.
    """

    def __init__(self, sock: socket.socket, silence_s: float) -> None:
        sock.settimeout(silence_s)
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
            return None if frame is None else from_frame(*frame)
        except TimeoutError:
            raise
        except OSError:  # reset: the engine died with messages unread
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise FrameError(f"not a message: {error!r}") from error

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
                send_frame(self._socket, *to_frame(message))
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            logger.info("the engine takes no more messages: %s", error)
