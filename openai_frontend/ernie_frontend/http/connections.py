"""The limit of connections of a process, and which of them is closed when it is reached.

It is below the limit of file descriptors: a process that reaches that can neither open files nor accept
connections. Idle connections, those that wait for a request, are closed first, the longest idle before others,
so that thousands of idle ones do not keep clients out.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

from ernie_frontend.settings import MAX_CONNECTIONS

logger = logging.getLogger(__name__)

OTHER_DESCRIPTORS = 128
"""For everything else that a process opens: listeners, logs, channels to Triton, metrics."""
_MIN_CONNECTIONS = 64
_LOG_INTERVAL_S = 60.0


class TooFewDescriptors(Exception):
    """The limit of file descriptors leaves no room for connections."""


def connection_limit(max_concurrency: int) -> int:
    """Raise this process' limit of file descriptors as far as allowed; return how many connections fit.

    Args:
        max_concurrency: requests in flight; as many idle connections are allowed in addition if possible.

    Raises:
        TooFewDescriptors: the message says how many are needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(MAX_CONNECTIONS, 2 * max_concurrency)
    required = limit + OTHER_DESCRIPTORS
    if soft not in (resource.RLIM_INFINITY, hard) and soft < required:
        soft = required if hard == resource.RLIM_INFINITY else min(hard, required)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return limit
    least = OTHER_DESCRIPTORS + _MIN_CONNECTIONS
    if soft < least:
        raise TooFewDescriptors(
            f"this process may open {soft} files (ulimit -Hn); it needs {least} at least, and {required} for"
            f" {limit} connections"
        )
    return min(limit, soft - OTHER_DESCRIPTORS)


class Connection(Protocol):
    """A connection that can be closed."""

    def evict(self) -> None:
        """Close at once."""


class Connections:
    """The connections of one process; use it inside one event loop.

    Args:
        limit: maximum number of connections.
        clock: seconds.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became idle
        self._num_closed = self._num_refused = 0
        self._logged_at_s: float | None = None

    def admit(self, connection: Connection) -> bool:
        """Add a connection, closing the longest idle one if necessary; False if there is no room."""
        if len(self._open) >= self._limit:
            oldest = next(iter(self._idle), None)
            self._num_closed += oldest is not None
            self._num_refused += oldest is None
            self._log()
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.evict()
        self._open.add(connection)
        return True

    def set_idle(self, connection: Connection, *, is_idle: bool) -> None:
        """Record whether a connection waits for a request."""
        self._idle.pop(connection, None)
        if is_idle and connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """Remove a connection."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _log(self) -> None:
        """Log what the limit did, once a minute at most."""
        now_s = self._clock()
        if self._logged_at_s is not None and now_s - self._logged_at_s < _LOG_INTERVAL_S:
            return
        logger.warning(
            "%d connections are open, the maximum (ulimit -n): %d idle ones were"
            " closed, %d new ones refused since the last such line",
            self._limit,
            self._num_closed,
            self._num_refused,
        )
        self._logged_at_s, self._num_closed, self._num_refused = now_s, 0, 0
