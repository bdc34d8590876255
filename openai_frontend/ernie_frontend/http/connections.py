"""How many connections a process holds, and which of them gives way when there are too many.

Below the limit of descriptors, since a process that reaches that can open nothing and accepts nobody. The
connections that wait for a request give way, the longest waiting first, so that thousands that only stand open
keep nobody out. Must not know HTTP.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

from ernie_frontend.settings import MOST_CONNECTIONS

logger = logging.getLogger(__name__)

OTHER_DESCRIPTORS = 128
"""What else a process opens: listeners, logs, Triton's channels, metrics."""
_LEAST_CONNECTIONS = 64
_LOG_INTERVAL_S = 60.0


class TooFewDescriptors(Exception):
    """The limit of descriptors leaves no room for connections."""


def connection_limit(max_concurrency: int) -> int:
    """Raise this process' limit of descriptors as far as it may, and return how many connections fit.

    Args:
        max_concurrency: requests in flight; as many connections again may wait, if the limit lets them.

    Raises:
        TooFewDescriptors: the message says how many are needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(MOST_CONNECTIONS, 2 * max_concurrency)
    wanted = most + OTHER_DESCRIPTORS
    if soft not in (resource.RLIM_INFINITY, hard) and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return most
    least = OTHER_DESCRIPTORS + _LEAST_CONNECTIONS
    if soft < least:
        raise TooFewDescriptors(
            f"this process may open {soft} files (ulimit -Hn); it needs {least} at least, and {wanted} to hold"
            f" {most} connections"
        )
    return min(most, soft - OTHER_DESCRIPTORS)


class Connection(Protocol):
    """What may give way."""

    def give_way(self) -> None:
        """Close at once."""


class Connections:
    """The connections of one process; use it inside one event loop.

    Args:
        limit: how many there may be.
        clock: seconds.
    """

    def __init__(self, limit: int = MOST_CONNECTIONS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # in the order in which they began to wait
        self._num_closed = self._num_refused = 0
        self._told_at_s: float | None = None

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, for which a waiting one gives way if need be; False if none can."""
        if len(self._open) >= self._limit:
            oldest = next(iter(self._waiting), None)
            self._num_closed += oldest is not None
            self._num_refused += oldest is None
            self._tell()
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.give_way()
        self._open.add(connection)
        return True

    def note_waiting(self, connection: Connection, *, is_waiting: bool) -> None:
        """Note that a connection has begun to wait for a request, or has got one."""
        self._waiting.pop(connection, None)
        if is_waiting and connection in self._open:
            self._waiting[connection] = None

    def forget(self, connection: Connection) -> None:
        """Count a connection no more."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def _tell(self) -> None:
        """Log what the limit did, once a minute at most."""
        now_s = self._clock()
        if self._told_at_s is not None and now_s - self._told_at_s < _LOG_INTERVAL_S:
            return
        logger.warning(
            "%d connections are open, the most that there may be (ulimit -n): %d that waited for a request were"
            " closed, %d new ones refused since the last such line",
            self._limit,
            self._num_closed,
            self._num_refused,
        )
        self._told_at_s, self._num_closed, self._num_refused = now_s, 0, 0
