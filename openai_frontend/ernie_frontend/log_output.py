"""Log output that never blocks on its reader.

A stopped terminal, or a pipe that is not read, blocks the process that writes to it: here that would be the
event loop, and with it every request and every signal. So lines go into a bounded queue which a thread writes,
and lines that find the queue full are dropped; a line then says how many were.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque
from functools import lru_cache
from pathlib import Path

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_CAPACITY_BYTES = 1 << 20
_DRAIN_S = 1.0


class LogOutput:
    """A non-blocking, file-like output for whole lines, used from any thread.

    Args:
        descriptor: the open file that the lines go to.
        capacity_bytes: of the lines that wait; further ones are dropped.
    """

    def __init__(self, descriptor: int, capacity_bytes: int = _CAPACITY_BYTES) -> None:
        self._descriptor = descriptor
        self._capacity_bytes = capacity_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._num_waiting_bytes = 0  # including those that are being written
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
        """Do nothing: ``logging`` calls it after each line, and must not wait."""

    def drain(self, timeout_s: float = _DRAIN_S) -> None:
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
            self._append(b"%d lines were dropped here: they were not read in time\n" % self._num_dropped)
            self._num_dropped = 0

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the reader is gone for good
            while data:
                data = data[self._write_part(data) :]

    def _write_part(self, data: bytes) -> int:
        """Return how many bytes could be written now."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process that shares the descriptor set O_NONBLOCK
            select.select([], [self._descriptor], [])
            return 0


@lru_cache(maxsize=1)
def standard_error() -> LogOutput:
    """Return this process' output to standard error; at exit its reader gets a moment to catch up."""
    output = LogOutput(2)
    atexit.register(output.drain)
    return output


def print_line(line: str) -> None:
    """Print a line to standard output; once that fails, print no more lines.

    A line on standard error says why, unless the reader is gone.
    """
    try:
        print_result(line)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            standard_error().write(f"standard output is lost from here on: {error.strerror}\n")
        discard_output()


def print_result(text: str) -> None:
    """Print what a command was run for; raises OSError if it cannot be printed."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def discard_output() -> None:
    """Send standard output nowhere from here on, what Python still has in its buffer too."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def log_to_standard_error(level: int) -> None:
    """Send this process's log to standard error, in ``LOG_FORMAT``."""
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=standard_error())
