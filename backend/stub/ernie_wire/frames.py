"""Frames on a stream socket: one JSON header and any number of raw buffers.

    +------------------+----------------+-----------------------+--------------------------+
    | header bytes u32 | body bytes u64 | header (UTF-8 JSON)   | buffers, one by one      |
    +------------------+----------------+-----------------------+--------------------------+

The header's ``buffers`` lists the sizes of the buffers in bytes. Callers serialize their sends.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_PREFIX = struct.Struct("<IQ")
MAX_HEADER_BYTES = 256 << 20
MAX_BODY_BYTES = 4 << 30


class FrameError(Exception):
    """The peer sent something that is not a frame."""


class FrameTooLarge(Exception):
    """A frame exceeds the peer's limits; nothing was sent."""


def pack_frame(header: dict[str, Any], buffers: Sequence[bytes] = ()) -> bytes:
    """Return the bytes of one frame.

    Raises:
        FrameTooLarge: the header or the body exceeds its limit.
    """
    text = json.dumps({**header, "buffers": [len(buffer) for buffer in buffers]}).encode()
    body = sum(len(buffer) for buffer in buffers)
    if len(text) > MAX_HEADER_BYTES or body > MAX_BODY_BYTES:
        raise FrameTooLarge(_sizes(len(text), body))
    return b"".join((_PREFIX.pack(len(text), body), text, *buffers))


def unpack_frame(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return the header and the buffers of one whole frame.

    Raises:
        FrameError: it is not a frame.
    """
    if len(data) < _PREFIX.size:
        raise FrameError(f"{len(data)} bytes; a frame has at least {_PREFIX.size}")
    header_bytes, body_bytes = _PREFIX.unpack_from(data)
    body = _PREFIX.size + header_bytes
    if len(data) != body + body_bytes:
        raise FrameError(f"a frame of {body + body_bytes} bytes announced, {len(data)} sent")
    return _opened(data[_PREFIX.size : body], memoryview(data)[body:])


def take_frame(received: bytearray) -> tuple[dict[str, Any], list[bytes]] | None:
    """Remove the first frame from what was received so far, and return it; None if it is incomplete.

    Raises:
        FrameError: it is not a frame, or too large.
    """
    if len(received) < _PREFIX.size:
        return None
    header_bytes, body_bytes = _PREFIX.unpack_from(received)
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FrameError(_sizes(header_bytes, body_bytes))
    end = _PREFIX.size + header_bytes + body_bytes
    if len(received) < end:
        return None
    frame = unpack_frame(bytes(received[:end]))
    del received[:end]
    return frame


def send_frame(sock: socket.socket, header: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
    """Send one frame; blocks until the kernel has accepted it.

    Raises:
        FrameTooLarge: the header or the body exceeds its limit; nothing was sent.
        OSError: the peer has closed the socket.
    """
    sock.sendall(pack_frame(header, buffers))


def receive_frame(
    sock: socket.socket, max_bytes: int = MAX_HEADER_BYTES + MAX_BODY_BYTES
) -> tuple[dict[str, Any], list[bytes]] | None:
    """Receive one frame; None at the end of the stream.

    Args:
        sock: the socket.
        max_bytes: of header and body; memory is allocated by the announced size, so limit untrusted peers.

    Raises:
        FrameError: the peer sent something that is not a frame, or too large.
        OSError: the stream ended inside a frame.
    """
    prefix = _receive_exactly(sock, _PREFIX.size, may_end=True)
    if prefix is None:
        return None
    header_bytes, body_bytes = _PREFIX.unpack(prefix)
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FrameError(_sizes(header_bytes, body_bytes))
    if header_bytes + body_bytes > max_bytes:
        raise FrameError(f"a frame of {header_bytes + body_bytes} bytes; at most {max_bytes} are allowed here")
    text = _receive_exactly(sock, header_bytes) or b""
    return _opened(text, memoryview(_receive_exactly(sock, body_bytes) or b""))


def _opened(text: bytes | bytearray, body: memoryview) -> tuple[dict[str, Any], list[bytes]]:
    header, sizes = _parse_header(text)
    if sum(sizes) != len(body):
        raise FrameError(f"buffers of {sum(sizes)} bytes announced, {len(body)} sent")
    buffers, start = [], 0
    for size in sizes:
        buffers.append(bytes(body[start : start + size]))
        start += size
    return header, buffers


def _sizes(header_bytes: int, body_bytes: int) -> str:
    return (
        f"a header of {header_bytes} and a body of {body_bytes} bytes; at most {MAX_HEADER_BYTES} and "
        f"{MAX_BODY_BYTES} are allowed"
    )


def _parse_header(text: bytes | bytearray) -> tuple[dict[str, Any], list[int]]:
    try:
        header = json.loads(text)
        sizes = header.pop("buffers")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FrameError(f"a header that is not a JSON object with buffers: {error!r}") from error
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise FrameError("buffers with invalid sizes")
    return header, sizes


def _receive_exactly(sock: socket.socket, size: int, *, may_end: bool = False) -> bytearray | None:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        count = sock.recv_into(view[have:])
        if count == 0:
            if may_end and have == 0:
                return None
            raise ConnectionResetError(f"the stream ended after {have} of {size} bytes")
        have += count
    return data
