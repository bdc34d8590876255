"""The handshake on a new connection between rank 0 and a rank of another machine.

    rank 0 -> rank   Challenge: a random number
    rank -> rank 0   Hello: the group that it was started for, its place there, and HMAC-SHA256 of the number
                     with the group's secret as key
    rank 0 -> rank   Welcome, or Refused with the reason, which ends the rank

The secret itself is never sent: any local user may listen at the port before rank 0 does, and would receive it.
docs/parallel.md says what the handshake does not protect.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket

from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.messages import CODEC, Challenge, Hello, RankMessage, Refused, Welcome
from ernie_wire.codec import MessageError
from ernie_wire.frames import FrameError, receive_frame, send_frame

SECRET_VARIABLE = "ERNIE_GROUP_SECRET"  # noqa: S105 - the name of it
HANDSHAKE_S = 5.0
_MAX_BYTES = 4096


class RefusalError(Exception):
    """A peer is not a rank of the group; the message is the reason that it receives."""


def verify_peer(sock: socket.socket, address: str, layout: Layout) -> int:
    """Find out which rank has connected, and welcome it.

    Args:
        sock: the connection.
        address: the peer's.
        layout: of the group.

    Raises:
        RefusalError: it is not one of the group.
        OSError, FrameError: it does not identify itself.
    """
    sock.settimeout(HANDSHAKE_S)
    try:
        rank = _rank(sock, address, layout)
    except RefusalError as refusal:
        send_frame(sock, *CODEC.encode(Refused(str(refusal))))
        raise
    send_frame(sock, *CODEC.encode(Welcome()))
    return rank


def introduce(sock: socket.socket, layout: Layout, index: int) -> None:
    """Identify this process to rank 0 as the ``index``-th rank of this machine; return when it is accepted.

    Raises:
        StartError: rank 0 refuses it.
        OSError: rank 0 is gone, or another program listens there.
    """
    answer = _receive(sock)
    if isinstance(answer, Challenge):
        proof = _proof(answer.number)
        send_frame(sock, *CODEC.encode(Hello(layout.size, len(layout.hosts), layout.own_host, index, proof)))
        answer = _receive(sock)
    if isinstance(answer, Refused):
        raise StartError(f"rank 0 at {layout.hosts[0]}:{layout.port} refuses this rank: {answer.reason}")
    if not isinstance(answer, Welcome):
        raise ConnectionResetError("another program than rank 0 listens there")


def _receive(sock: socket.socket) -> RankMessage:
    try:
        frame = receive_frame(sock, _MAX_BYTES)
        if frame is not None:
            return CODEC.decode(*frame)
    except FrameError as error:
        raise ConnectionResetError("another program than rank 0 listens there") from error
    raise ConnectionResetError("rank 0 has closed the connection")


def _rank(sock: socket.socket, address: str, layout: Layout) -> int:
    """Return the rank that a peer proves to be; raises what ``verify_peer`` does."""
    if address not in layout.hosts[1:]:
        raise RefusalError(f"its address {address} is not in the list; give the same ips on every machine")
    number = secrets.token_hex(16)
    send_frame(sock, *CODEC.encode(Challenge(number)))
    frame = receive_frame(sock, _MAX_BYTES)
    if frame is None:
        raise FrameError("it does not introduce itself")
    hello: RankMessage | None
    try:
        hello = CODEC.decode(*frame)
    except MessageError:
        hello = None
    if not isinstance(hello, Hello):
        raise RefusalError("its greeting is unknown; install the same version of ernie-triton on every machine")
    if not hmac.compare_digest(_bytes(hello.proof), _bytes(_proof(number))):
        raise RefusalError(f"it does not know the secret; {SECRET_VARIABLE} must be the same on every machine")
    if (hello.size, hello.hosts) != (layout.size, len(layout.hosts)):
        raise RefusalError(
            f"it was started for {hello.size} ranks on {hello.hosts} machines, and rank 0 for {layout.size} on "
            f"{len(layout.hosts)}; give the same tensor_parallel_size and ips on every machine"
        )
    if not (0 < hello.host < hello.hosts and layout.hosts[hello.host] == address):
        raise RefusalError(
            f"it claims to be machine {hello.host} of the list, whose address is not {address}; give the same "
            "ips in the same order on every machine"
        )
    if not 0 <= hello.index < layout.ranks_per_host:
        raise RefusalError(f"it claims to be rank {hello.index} of {layout.ranks_per_host} of its machine")
    return layout.rank(hello.host, hello.index)


def _proof(number: str) -> str:
    return hmac.new(_bytes(os.environ.get(SECRET_VARIABLE, "")), _bytes(number), "sha256").hexdigest()


def _bytes(text: str) -> bytes:
    """Encode any text, even lone surrogates that a stranger may send."""
    return text.encode(errors="surrogatepass")
