"""Standard error for logs, which never waits for whoever reads it.

A terminal that is stopped, or a pipe that nobody empties, blocks the process that writes to it: here that would
be the event loop, and with it every request and every signal. So lines go into a bounded queue, a thread of its
own writes them, and what finds the queue full is dropped; a line then says how many were. A service does not
depend on whoever reads its standard output either.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import threading
from collections import deque
from functools import lru_cache
from pathlib import Path

import typer

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_CAPACITY_BYTES = 1 << 20
_LAST_WORDS_S = 1.0


class LogOutput:
    """A file to write lines to, from any thread.

    Args:
        descriptor: the open file that they go to.
        capacity_bytes: of lines that wait; what is more is dropped.
    """

    def __init__(self, descriptor: int, capacity_bytes: int = _CAPACITY_BYTES) -> None:
        self._descriptor = descriptor
        self._capacity_bytes = capacity_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._num_waiting_bytes = 0  # with those that are being written
        self._num_dropped = 0
        threading.Thread(target=self._write_all, name="log-output", daemon=True).start()

    def write(self, data: bytes | str) -> None:
        """Put whole lines into the queue, or drop them if it is full."""
        data = data.encode(errors="replace") if isinstance(data, str) else data
        with self._changed:
            if self._num_waiting_bytes + len(data) > self._capacity_bytes:
                self._num_dropped += data.count(b"\n")
                return
            self._tell_of_dropped()
            self._append(data)
            self._changed.notify_all()

    def flush(self) -> None:
        """Do nothing: ``logging`` calls it after each line, and nobody waits here."""

    def drain(self, timeout_s: float = _LAST_WORDS_S) -> None:
        """Wait until everything is written, for at most ``timeout_s`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_waiting_bytes, timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.popleft()
            self._write(data)
            with self._changed:
                self._num_waiting_bytes -= len(data)
                if not self._waiting:
                    self._tell_of_dropped()
                self._changed.notify_all()

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._num_waiting_bytes += len(data)

    def _tell_of_dropped(self) -> None:
        if self._num_dropped:
            self._append(b"%d lines were dropped here: nobody read them in time\n" % self._num_dropped)
            self._num_dropped = 0

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the reader is gone for good
            while data:
                data = data[self._write_part(data) :]

    def _write_part(self, data: bytes) -> int:
        """Return how many bytes could be written now."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # whoever shares the descriptor has made it so
            select.select([], [self._descriptor], [])
            return 0


@lru_cache(maxsize=1)
def standard_error() -> LogOutput:
    """Return the one output of this process for standard error; at exit it gets a moment to be read."""
    output = LogOutput(2)
    atexit.register(output.drain)
    return output


def print_line(line: str) -> None:
    """Print a line to standard output; if that fails (its reader is gone), no line is printed any more."""
    try:
        typer.echo(line)
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)  # for what Python still has in its buffer, too


def log_to_standard_error(level: int) -> None:
    """Send this process's log there, in ``LOG_FORMAT``."""
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=standard_error())
