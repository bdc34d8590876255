"""Where ranks of other machines meet rank 0: a TCP port of the first machine.

    rank 0 -> rank   a random number
    rank -> rank 0   Hello: which machine, which of its ranks, HMAC-SHA256 of the number with the secret as key

Who is not in the list of addresses, or does not know the secret, is turned away. What follows is neither
encrypted nor authenticated, nor are the sums of Paddle: the network between the machines must be trusted. This
module must not know what is said afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import socket
import time

from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.messages import Hello, from_frame, to_frame
from ernie_wire.frames import FrameError, receive_frame, send_frame

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "ERNIE_GROUP_SECRET"  # noqa: S105 - the name of it
MEETING_S = 300.0
_HANDSHAKE_S = 5.0
_RETRY_S = 1.0
_REMIND_S = 10.0


def meet_ranks(layout: Layout, timeout_s: float = MEETING_S) -> dict[int, socket.socket]:
    """Wait for the ranks of the other machines; return their sockets by rank.

    Raises:
        StartError: the port is taken, or a machine's ranks do not come.
    """
    expected = {
        layout.rank(host, index): address
        for host, address in enumerate(layout.hosts)
        for index in range(layout.ranks_per_host)
        if host > 0
    }
    met: dict[int, socket.socket] = {}
    until, remind_at = time.monotonic() + timeout_s, time.monotonic() + _REMIND_S
    with _listen(layout) as listener:
        while len(met) < len(expected):
            missing = ", ".join(sorted({expected[rank] for rank in expected.keys() - met.keys()}))
            if time.monotonic() > until:
                raise StartError(
                    f"no rank came from {missing} in {timeout_s:g} s; run the same command there with the same "
                    f"ips, and let port {layout.port} of {layout.hosts[0]} be reached"
                )
            if time.monotonic() > remind_at:
                logger.info("waiting for the ranks of %s at port %d", missing, layout.port)
                remind_at += _REMIND_S
            if (arrived := _accept(listener, layout)) is not None:
                rank, met[rank] = arrived
                logger.info("rank %d of %s is here", rank, expected[rank])
    return met


def reach_rank_0(layout: Layout, index: int, timeout_s: float = MEETING_S) -> socket.socket:
    """Connect this machine's ``index``-th rank to rank 0, as soon as that listens.

    Raises:
        StartError: it does not, or turns the rank away.
    """
    address = (layout.hosts[0], layout.port)
    until = time.monotonic() + timeout_s
    while True:
        try:
            own = (layout.hosts[layout.own_host], 0)
            sock = socket.create_connection(address, _HANDSHAKE_S, source_address=own)
            return _introduce(sock, layout, index)
        except OSError as error:
            if time.monotonic() > until:
                raise StartError(
                    f"rank 0 cannot be reached at {address[0]}:{address[1]} ({error.strerror or error}); start "
                    f"the same command on {address[0]}, and let its port {address[1]} be reached"
                ) from error
        time.sleep(_RETRY_S)


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
    listener.settimeout(_RETRY_S)
    return listener


def _accept(listener: socket.socket, layout: Layout) -> tuple[int, socket.socket] | None:
    """Return the next rank and its socket; None if nobody came, or somebody who is none."""
    try:
        sock, (address, _) = listener.accept()
    except TimeoutError:
        return None
    try:
        rank = _welcome(sock, address, layout)
    except (OSError, FrameError, KeyError, TypeError, ValueError) as error:
        logger.warning("a connection from %s is turned away: %s", address, error)
        sock.close()
        return None
    return rank, _kept_alive(sock)


def _welcome(sock: socket.socket, address: str, layout: Layout) -> int:
    """Return which rank has connected.

    Raises:
        OSError, FrameError, KeyError, TypeError, ValueError: it is none.
    """
    if address not in layout.hosts[1:]:
        raise FrameError("its address is not in the list")
    sock.settimeout(_HANDSHAKE_S)
    number = secrets.token_hex(16)
    send_frame(sock, {"number": number})
    frame = receive_frame(sock)
    hello = from_frame(*frame) if frame is not None else None
    if not isinstance(hello, Hello):
        raise FrameError("it does not introduce itself")
    if not hmac.compare_digest(hello.proof, _proof(number)):
        raise FrameError(f"it does not know the secret; {SECRET_VARIABLE} must be the same on every machine")
    if not (0 < hello.host < len(layout.hosts) and 0 <= hello.index < layout.ranks_per_host):
        raise FrameError(f"it says that it is rank {hello.index} of machine {hello.host}")
    return layout.rank(hello.host, hello.index)


def _introduce(sock: socket.socket, layout: Layout, index: int) -> socket.socket:
    try:
        number = _number(sock)
        send_frame(sock, *to_frame(Hello(layout.own_host, index, _proof(number))))
    except OSError:
        sock.close()
        raise
    return _kept_alive(sock)


def _number(sock: socket.socket) -> str:
    try:
        frame = receive_frame(sock)
        if frame is not None:
            return str(frame[0]["number"])
    except (FrameError, KeyError) as error:
        raise ConnectionResetError("whoever listens there is no rank 0") from error
    raise ConnectionResetError("rank 0 turned this rank away; its log says why")


def _proof(number: str) -> str:
    secret = os.environ.get(SECRET_VARIABLE, "")
    return hmac.new(secret.encode(), number.encode(), hashlib.sha256).hexdigest()


def _kept_alive(sock: socket.socket) -> socket.socket:
    """Have the kernel notice within half a minute that the other machine is gone."""
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
