"""One end of a socket on which messages go both ways.

What cannot be sent is lost, and breaks the connection in both directions: the end is told by the reading side
alone, after all that the peer had still sent. This module must not know what a message is for, nor what is done
about a peer that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ernie_wire.codec import Codec
from ernie_wire.frames import FrameError, FrameTooLarge, receive_frame, send_frame

logger = logging.getLogger(__name__)

M = TypeVar("M")


class Channel(Generic[M]):
    """Messages to and from one peer.

    Any thread may send. One thread reads: with ``receive`` one of the caller's, with ``listen`` one that the
    channel starts.

    Args:
        sock: the socket, which is the channel's from now on.
        codec: of the messages.
        peer: its name in the log.
        has_writer: ``send`` only queues, for callers that may never wait for the peer, and a thread writes.
        instead: returns what is sent in place of a message that no frame holds; without it that is a fault.
    """

    def __init__(
        self,
        sock: socket.socket,
        codec: Codec[M],
        peer: str,
        *,
        has_writer: bool = False,
        instead: Callable[[M, FrameTooLarge], Iterable[M]] | None = None,
    ) -> None:
        self._socket = sock
        self._codec = codec
        self._peer = peer
        self._instead = instead
        self._sending = threading.Lock()
        self._outbox: queue.SimpleQueue[M | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._fault: Exception | None = None
        if has_writer:
            self._writer = self._started(self._write_queued, "writer")

    def send(self, message: M) -> None:
        """Send a message, or queue it; to a peer that is gone it is lost, which whoever reads sees.

        Raises:
            FrameTooLarge: no frame holds it, and it is not queued.
        """
        if self._writer is not None:
            self._outbox.put(message)
            return
        try:
            self._write(message)
        except OSError as error:
            self._give_up(error)

    def is_readable(self, timeout_s: float) -> bool:
        """Wait until ``receive`` has something, at most ``timeout_s``."""
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def receive(self) -> M | None:
        """Return the next message, or None at the end.

        Raises:
            TimeoutError: the socket has a timeout, and nothing came.
            FrameError: what came is no message.
        """
        try:
            frame = receive_frame(self._socket)
        except TimeoutError:
            raise
        except OSError as error:  # it died with messages unread, or inside one
            logger.info("%s has ended: %s", self._peer, error)
            return None
        return None if frame is None else self._codec.decode(*frame)

    def listen(self, receive: Callable[[M], None], ended: Callable[[Exception | None], None]) -> None:
        """Hand every message to ``receive``, on a thread of their own; at the end close the socket.

        Args:
            receive: takes a message.
            ended: takes what was wrong: FrameError if something came that is no message, what ``receive``
                raised, or what kept a message from being sent; None if the peer has closed the connection.
                Called once, at the end.
        """
        self._started(lambda: self._read(receive, ended), "reader")

    def finish(self) -> None:
        """Let the peer see the end after what is queued."""
        self._outbox.put(None)

    def flush(self) -> None:
        """As ``finish``, and wait until all is sent."""
        self.finish()
        if self._writer is not None:
            self._writer.join()

    def break_off(self) -> None:
        """End the connection at once: who reads or writes here or there sees its end."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)  # closing would not wake the reader

    def close(self) -> None:
        """Break off, wait for the writer, and close the socket."""
        self.break_off()
        self.flush()
        self._socket.close()

    def _started(self, run: Callable[[], None], role: str) -> threading.Thread:
        thread = threading.Thread(target=run, name=f"{role} of {self._peer}", daemon=True)
        thread.start()
        return thread

    def _write(self, message: M) -> None:
        try:
            with self._sending:
                send_frame(self._socket, *self._codec.encode(message))
        except FrameTooLarge as error:
            if self._instead is None:
                raise
            for other in self._instead(message, error):
                self._write(other)

    def _write_queued(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._write(message)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._give_up(error)
        except Exception as error:  # without its writer this end would seem alive, and be dumb
            logger.exception("a message to %s cannot be sent", self._peer)
            self._fault = error
            self.break_off()

    def _give_up(self, error: OSError) -> None:
        logger.info("%s takes no more messages: %s", self._peer, error)
        self.break_off()

    def _read(self, receive: Callable[[M], None], ended: Callable[[Exception | None], None]) -> None:
        fault: Exception | None = None
        try:
            while (message := self.receive()) is not None:
                receive(message)
        except FrameError as error:
            fault = error
        except Exception as error:
            logger.exception("a message of %s cannot be taken", self._peer)
            fault = error
        self._socket.close()
        self.finish()
        ended(fault or self._fault)
