"""Connects ranks of other machines to rank 0, at a TCP port of the first machine.

Each connection is verified in a thread of its own, so that a slow or silent peer, or a stranger, does not delay
the ranks.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from ernie_backend.errors import StartError
from ernie_backend.parallel.handshake import HANDSHAKE_S, RefusalError, introduce, verify_peer
from ernie_backend.parallel.layout import Layout
from ernie_wire.frames import FrameError

logger = logging.getLogger(__name__)

RENDEZVOUS_S = 300.0
_RETRY_S = 1.0
_REMIND_S = 10.0
_TICK_S = 0.1
_MAX_PEERS = 256


def accept_ranks(
    layout: Layout, on_wait: Callable[[], None] = lambda: None, timeout_s: float = RENDEZVOUS_S
) -> dict[int, socket.socket]:
    """Wait for the ranks of the other machines, if there are any; return their sockets by rank.

    Args:
        layout: which ranks are on which machine.
        on_wait: called several times a second; an exception that it raises ends the wait.
        timeout_s: how long to wait for all of them.

    Raises:
        StartError: the port is taken, or a machine's ranks do not connect.
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
    with contextlib.closing(_Listener(layout)) as listener:
        while missing_ranks := expected.keys() - listener.accepted.keys():
            missing = ", ".join(sorted({expected[rank] for rank in missing_ranks}))
            if time.monotonic() > until:
                raise StartError(
                    f"no rank connected from {missing} in {timeout_s:g} s; run the same command there with the "
                    f"same ips, and open port {layout.port} of {layout.hosts[0]}{listener.last_refusal}"
                )
            if time.monotonic() > remind_at:
                logger.info("waiting for the ranks of %s at port %d", missing, layout.port)
                remind_at += _REMIND_S
            on_wait()
            listener.poll()
        return listener.take_accepted()


def connect_to_rank_0(layout: Layout, index: int, timeout_s: float = RENDEZVOUS_S) -> socket.socket:
    """Connect this machine's ``index``-th rank to rank 0, as soon as rank 0 listens.

    Raises:
        StartError: it does not listen in time, or refuses the rank.
    """
    address = (layout.hosts[0], layout.port)
    until = time.monotonic() + timeout_s
    while True:
        try:
            return _connect(address, layout, index)
        except OSError as error:
            if time.monotonic() > until:
                raise StartError(
                    f"rank 0 cannot be reached at {address[0]}:{address[1]} ({error.strerror or error}); start "
                    f"the same command on {address[0]}, and open its port {address[1]}"
                ) from error
        time.sleep(_RETRY_S)


class _Peer:
    """A new connection, which a thread verifies.

    Attributes:
        socket: the connection.
        address: the peer's.
        rank: the rank that it is; None until it is verified.
        complaint: why it is not a rank; empty until then.
    """

    def __init__(self, sock: socket.socket, address: str, layout: Layout) -> None:
        self.socket = sock
        self.address = address
        self.rank: int | None = None
        self.complaint = ""
        self._until = time.monotonic() + HANDSHAKE_S
        self._thread = threading.Thread(
            target=self._verify, args=(layout,), name=f"handshake with {address}", daemon=True
        )
        self._thread.start()

    def is_done(self) -> bool:
        """Return whether the handshake is over; break it off if it takes too long.

        The socket's own timeout begins again with every byte, so it alone would not stop a peer that drips.
        """
        if self._thread.is_alive() and time.monotonic() > self._until:
            self.break_off()
        return not self._thread.is_alive()

    def break_off(self) -> None:
        """Break off the connection, which ends the thread."""
        with contextlib.suppress(OSError):  # the peer was faster
            self.socket.shutdown(socket.SHUT_RDWR)  # closing would not wake the reader

    def _verify(self, layout: Layout) -> None:
        try:
            self.rank = verify_peer(self.socket, self.address, layout)
        except RefusalError as refusal:
            self.complaint = f"a connection from {self.address} was refused: {refusal}"
        except (OSError, FrameError) as error:
            self.complaint = f"a connection from {self.address} was not a rank: {error}"


class _Listener:
    """Rank 0's port, the ranks that it has accepted, and the peers being verified.

    Attributes:
        accepted: sockets by rank.
        last_refusal: the last connection that was refused, as the rest of a sentence; empty if none was.
    """

    def __init__(self, layout: Layout) -> None:
        """Open the port; raises StartError if it is taken."""
        self.accepted: dict[int, socket.socket] = {}
        self.last_refusal = ""
        self._layout = layout
        self._peers: list[_Peer] = []
        self._logged: set[str] = set()
        self._socket = _listen(layout)

    def close(self) -> None:
        """Close the port, and the connections that were not taken."""
        self._socket.close()
        for peer in self._peers:
            peer.break_off()
            peer.socket.close()
        for sock in self.accepted.values():
            sock.close()

    def take_accepted(self) -> dict[int, socket.socket]:
        """Return the sockets of the ranks, which the caller owns from now on."""
        taken, self.accepted = self.accepted, {}
        return taken

    def poll(self) -> None:
        """Wait a tick for a connection, and accept or refuse the peers whose handshake is over."""
        with contextlib.suppress(TimeoutError):
            sock, (address, _) = self._socket.accept()
            if len(self._peers) < _MAX_PEERS:
                self._peers.append(_Peer(sock, address, self._layout))
            else:
                sock.close()
        done = [peer for peer in self._peers if peer.is_done()]
        self._peers = [peer for peer in self._peers if peer not in done]
        for peer in done:
            if peer.rank is None:
                self._refuse(peer)
            else:
                self._accept(peer.rank, peer)

    def _accept(self, rank: int, peer: _Peer) -> None:
        if rank in self.accepted:
            self.accepted[rank].close()  # it was restarted, and the previous process may not have ended
        self.accepted[rank] = _keep_alive(peer.socket)
        logger.info("rank %d of %s is connected", rank, peer.address)

    def _refuse(self, peer: _Peer) -> None:
        peer.socket.close()
        self.last_refusal = f"; {peer.complaint}"
        if peer.complaint not in self._logged and len(self._logged) < _MAX_PEERS:
            self._logged.add(peer.complaint)  # a peer that retries is logged once
            logger.warning("%s", peer.complaint)


def _listen(layout: Layout) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((layout.hosts[0], layout.port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"rank 0 cannot listen at {layout.hosts[0]}:{layout.port}: {error.strerror}; choose another port "
            "by engine_worker_queue_port, the same on every machine"
        ) from error
    listener.listen()
    listener.settimeout(_TICK_S)
    return listener


def _connect(address: tuple[str, int], layout: Layout, index: int) -> socket.socket:
    own = (layout.hosts[layout.own_host], 0)
    sock = socket.create_connection(address, HANDSHAKE_S, source_address=own)
    try:
        introduce(sock, layout, index)
    except (OSError, StartError):
        sock.close()
        raise
    return _keep_alive(sock)


def _keep_alive(sock: socket.socket) -> socket.socket:
    """Have the kernel notice within half a minute that the other machine is gone."""
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
