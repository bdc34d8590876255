"""Where ranks of other machines meet rank 0: a TCP port of the first machine.

Each connection is examined in a thread of its own, so nobody who is slow, silent or a stranger keeps the ranks
waiting. This module must not know what is said, neither by whom nor afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from ernie_backend.errors import StartError
from ernie_backend.parallel.handshake import HANDSHAKE_S, RefusalError, examine, introduce
from ernie_backend.parallel.layout import Layout
from ernie_wire.frames import FrameError

logger = logging.getLogger(__name__)

MEETING_S = 300.0
_RETRY_S = 1.0
_REMIND_S = 10.0
_TICK_S = 0.1
_MOST_ARRIVALS = 256


def meet_ranks(
    layout: Layout, on_wait: Callable[[], None] = lambda: None, timeout_s: float = MEETING_S
) -> dict[int, socket.socket]:
    """Wait for the ranks of the other machines, if there are any; return their sockets by rank.

    Args:
        layout: which ranks are where.
        on_wait: called several times a second; what it raises ends the meeting.
        timeout_s: how long to wait for all of them.

    Raises:
        StartError: the port is taken, or a machine's ranks do not come.
    """
    expected = {
        layout.rank(host, index): address
        for host, address in enumerate(layout.hosts)
        for index in range(layout.ranks_per_host)
        if host > 0
    }
    if not expected:
        return {}
    until, remind_at = time.monotonic() + timeout_s, time.monotonic() + _REMIND_S
    with _Entrance(layout) as entrance:
        while missing_ranks := expected.keys() - entrance.met.keys():
            missing = ", ".join(sorted({expected[rank] for rank in missing_ranks}))
            if time.monotonic() > until:
                raise StartError(
                    f"no rank came from {missing} in {timeout_s:g} s; run the same command there with the same "
                    f"ips, and let port {layout.port} of {layout.hosts[0]} be reached{entrance.last_refusal}"
                )
            if time.monotonic() > remind_at:
                logger.info("waiting for the ranks of %s at port %d", missing, layout.port)
                remind_at += _REMIND_S
            on_wait()
            entrance.wait(expected)
        return entrance.give()


def reach_rank_0(layout: Layout, index: int, timeout_s: float = MEETING_S) -> socket.socket:
    """Connect this machine's ``index``-th rank to rank 0, as soon as that listens.

    Raises:
        StartError: it does not, or refuses the rank.
    """
    address = (layout.hosts[0], layout.port)
    until = time.monotonic() + timeout_s
    while True:
        try:
            return _connected(address, layout, index)
        except OSError as error:
            if time.monotonic() > until:
                raise StartError(
                    f"rank 0 cannot be reached at {address[0]}:{address[1]} ({error.strerror or error}); start "
                    f"the same command on {address[0]}, and let its port {address[1]} be reached"
                ) from error
        time.sleep(_RETRY_S)


class _Arrival:
    """A connection whose peer is being examined.

    Attributes:
        socket: the connection.
        rank: which rank it is of; None as long as that is not known.
        complaint: why it is of none; empty as long as that is not known.
    """

    def __init__(self, sock: socket.socket, address: str, layout: Layout) -> None:
        self.socket = sock
        self.rank: int | None = None
        self.complaint = ""
        self._address = address
        self._layout = layout
        self._until = time.monotonic() + HANDSHAKE_S
        self._thread = threading.Thread(target=self._examine, name=f"arrival of {address}", daemon=True)
        self._thread.start()

    def is_over(self) -> bool:
        """Whether the examination is over; ends it when it takes too long."""
        if self._thread.is_alive() and time.monotonic() > self._until:
            self.end()
        return not self._thread.is_alive()

    def end(self) -> None:
        """Break the connection off, which ends the examination."""
        with contextlib.suppress(OSError):  # the peer was faster
            self.socket.shutdown(socket.SHUT_RDWR)  # closing would not wake the reader

    def _examine(self) -> None:
        try:
            self.rank = examine(self.socket, self._address, self._layout)
        except RefusalError as refusal:
            self.complaint = f"a connection from {self._address} was turned away: {refusal}"
        except (OSError, FrameError) as error:
            self.complaint = f"a connection from {self._address} was of no rank: {error}"


class _Entrance:
    """The port, those who have come, and those who are being examined.

    Attributes:
        met: sockets of the ranks that have come.
        last_refusal: the last connection that was turned away, as the rest of a sentence; empty if none was.
    """

    def __init__(self, layout: Layout) -> None:
        """Open the port; raises StartError if it is taken."""
        self.met: dict[int, socket.socket] = {}
        self.last_refusal = ""
        self._layout = layout
        self._arrivals: list[_Arrival] = []
        self._told: set[str] = set()
        self._listener = _listen(layout)

    def __enter__(self) -> _Entrance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for arrival in self._arrivals:
            arrival.end()
            arrival.socket.close()
        for sock in self.met.values():
            sock.close()

    def give(self) -> dict[int, socket.socket]:
        """Return the sockets of the ranks, which are the caller's from now on."""
        given, self.met = self.met, {}
        return given

    def wait(self, expected: Mapping[int, str]) -> None:
        """Wait a moment for somebody to come, and see who has been examined; ``expected`` are the addresses."""
        with contextlib.suppress(TimeoutError):
            sock, (address, _) = self._listener.accept()
            if len(self._arrivals) < _MOST_ARRIVALS:
                self._arrivals.append(_Arrival(sock, address, self._layout))
            else:
                sock.close()
        over = [arrival for arrival in self._arrivals if arrival.is_over()]
        self._arrivals = [arrival for arrival in self._arrivals if arrival not in over]
        for arrival in over:
            if arrival.rank is None:
                self._turn_away(arrival)
            else:
                self._let_in(arrival.rank, arrival.socket)
                logger.info("rank %d of %s is here", arrival.rank, expected[arrival.rank])

    def _let_in(self, rank: int, sock: socket.socket) -> None:
        if rank in self.met:
            self.met[rank].close()  # it was started again, and the earlier one may not have ended
        self.met[rank] = _kept_alive(sock)

    def _turn_away(self, arrival: _Arrival) -> None:
        arrival.socket.close()
        self.last_refusal = f"; {arrival.complaint}"
        if arrival.complaint not in self._told and len(self._told) < _MOST_ARRIVALS:
            self._told.add(arrival.complaint)  # who tries again and again is told once
            logger.warning("%s", arrival.complaint)


def _listen(layout: Layout) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((layout.hosts[0], layout.port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"ranks cannot meet at {layout.hosts[0]}:{layout.port}: {error.strerror}; choose another port by "
            "engine_worker_queue_port, the same on every machine"
        ) from error
    listener.listen()
    listener.settimeout(_TICK_S)
    return listener


def _connected(address: tuple[str, int], layout: Layout, index: int) -> socket.socket:
    own = (layout.hosts[layout.own_host], 0)
    sock = socket.create_connection(address, HANDSHAKE_S, source_address=own)
    try:
        introduce(sock, layout, index)
    except (OSError, StartError):
        sock.close()
        raise
    return _kept_alive(sock)


def _kept_alive(sock: socket.socket) -> socket.socket:
    """Have the kernel notice within half a minute that the other machine is gone."""
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
