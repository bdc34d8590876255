"""One end of a socket that carries messages in both directions.

A message that cannot be sent is lost, and breaks the connection in both directions. Only the reading side
reports the end, after everything that the peer had sent before.
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
from ernie_wire.frames import FrameError, FrameTooLarge, pack_frame, receive_frame

logger = logging.getLogger(__name__)

M = TypeVar("M")


class Channel(Generic[M]):
    """Messages to and from one peer.

    Any thread may send. One thread reads: the caller's with ``receive``, or one that ``listen`` starts.

    Args:
        sock: the socket, which the channel owns from now on.
        codec: of the messages.
        peer: name of the peer in the log.
        has_writer: whether ``send`` never waits for the peer: it sends what the kernel takes at once, and a
            thread writes the rest.
        instead: returns messages to send instead of one that is too large for a frame; without it, that is an
            error.
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
        self._outbox: queue.SimpleQueue[M | bytes | None] = queue.SimpleQueue()
        self._num_queued = 0  # of the outbox, until the writer has sent it
        self._writer: threading.Thread | None = None
        self._fault: Exception | None = None
        if has_writer:
            self._writer = self._started(self._write_queued, "writer")

    def send(self, message: M) -> None:
        """Send or queue a message; if the peer is gone it is lost, which the reading side reports.

        Raises:
            FrameTooLarge: it is too large for a frame, and the channel has no writer.
        """
        if self._writer is not None:
            with self._sending:
                self._send_or_queue(message)
            return
        try:
            self._write(message)
        except OSError as error:
            self._give_up(error)

    def is_readable(self, timeout_s: float) -> bool:
        """Wait for data to receive, at most ``timeout_s``; return whether there is some."""
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def receive(self) -> M | None:
        """Return the next message, or None at the end.

        Raises:
            TimeoutError: the socket has a timeout, and nothing arrived.
            FrameError: the peer sent something that is not a message.
        """
        try:
            frame = receive_frame(self._socket)
        except TimeoutError:
            raise
        except OSError as error:  # the peer died with unread messages, or inside of one
            logger.info("%s has ended: %s", self._peer, error)
            return None
        return None if frame is None else self._codec.decode(*frame)

    def listen(self, receive: Callable[[M], None], ended: Callable[[Exception | None], None]) -> None:
        """Pass every message to ``receive``, on a new thread; at the end close the socket.

        Args:
            receive: called with each message.
            ended: called once, at the end, with its cause: FrameError if the peer sent something that is not a
                message, what ``receive`` raised, or why a message could not be sent; None if the peer closed
                the connection.
        """
        self._started(lambda: self._read(receive, ended), "reader")

    def finish(self) -> None:
        """End our direction of the connection after the queued messages."""
        with self._sending:
            self._num_queued += 1  # for good: what is sent from now on is lost
            self._outbox.put(None)

    def flush(self) -> None:
        """Like ``finish``, and wait until everything is sent."""
        self.finish()
        if self._writer is not None:
            self._writer.join()

    def break_off(self) -> None:
        """End the connection at once, for readers and writers on both sides."""
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)  # unlike close, this wakes the reader

    def close(self) -> None:
        """Break off, wait for the writer, and close the socket."""
        self.break_off()
        self.flush()
        self._socket.close()

    def _started(self, run: Callable[[], None], role: str) -> threading.Thread:
        thread = threading.Thread(target=run, name=f"{role} of {self._peer}", daemon=True)
        thread.start()
        return thread

    def _send_or_queue(self, message: M) -> None:
        """Send what the kernel takes without waiting, and leave the rest to the writer. Holds the lock."""
        item: M | bytes = message
        try:
            item = pack_frame(*self._codec.encode(message))
            if not self._num_queued:
                item = item[self._send_now(item) :]
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._give_up(error)
            return
        except Exception:  # noqa: BLE001, S110 - the writer meets it again, and knows what to do
            pass
        if item:
            self._num_queued += 1
            self._outbox.put(item)

    def _send_now(self, frame: bytes) -> int:
        """Return how many bytes the kernel took."""
        try:
            # A socket with a timeout would wait inside send, whatever its flags.
            is_free = bool(select.select((), (self._socket,), (), 0)[1])
            return self._socket.send(frame, socket.MSG_DONTWAIT) if is_free else 0
        except BlockingIOError:
            return 0

    def _write(self, message: M) -> None:
        try:
            frame = pack_frame(*self._codec.encode(message))
        except FrameTooLarge as error:
            if self._instead is None:
                raise
            for other in self._instead(message, error):
                self._write(other)
            return
        if self._writer is not None:
            self._socket.sendall(frame)  # nobody else sends while something is queued
        else:
            with self._sending:
                self._socket.sendall(frame)

    def _write_queued(self) -> None:
        try:
            while (item := self._outbox.get()) is not None:
                if isinstance(item, bytes):
                    self._socket.sendall(item)
                else:
                    self._write(item)
                with self._sending:
                    self._num_queued -= 1
        except OSError as error:
            self._give_up(error)
        except Exception as error:  # without its writer this end would seem alive, but send nothing
            logger.exception("a message to %s cannot be sent", self._peer)
            self._fault = error
            self.break_off()
        else:
            with contextlib.suppress(OSError):  # the peer has gone, and the reader has closed it
                self._socket.shutdown(socket.SHUT_WR)

    def _give_up(self, error: Exception) -> None:
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
