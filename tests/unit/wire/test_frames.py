"""Framing on a socket: whole frames, pieces of frames and what is no frame."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_wire.frames import (
    FrameError,
    FrameTooLarge,
    pack_frame,
    receive_frame,
    send_frame,
    take_frame,
    unpack_frame,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(
    st.dictionaries(
        st.text(max_size=3).filter(lambda name: name != "buffers"), st.integers() | st.text(max_size=5)
    ),
    st.lists(st.binary(max_size=20), max_size=4),
)
def test_what_is_sent_is_received(header: dict[str, object], buffers: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, header, buffers)
        send_frame(ours, {"next": 1})
        assert receive_frame(theirs) == (header, buffers)
        assert receive_frame(theirs) == ({"next": 1}, [])


def test_a_frame_larger_than_the_sockets_buffer(pair: Pair) -> None:
    ours, theirs = pair
    large = bytes(5_000_000)
    sender = threading.Thread(target=send_frame, args=(ours, {}, [large, b"x"]))
    sender.start()
    assert receive_frame(theirs) == ({}, [large, b"x"])
    sender.join()


def test_what_the_peer_would_not_take_is_not_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    monkeypatch.setattr("ernie_wire.frames.MAX_HEADER_BYTES", 100)
    monkeypatch.setattr("ernie_wire.frames.MAX_BODY_BYTES", 1000)
    for header, buffers in (({"text": "x" * 100}, []), ({}, [bytes(1001)])):
        with pytest.raises(FrameTooLarge, match="at most 100 and 1000"):
            send_frame(ours, header, buffers)
    send_frame(ours, {"next": 1})
    assert receive_frame(theirs) == ({"next": 1}, [])


def test_the_end_between_frames_is_none(pair: Pair) -> None:
    ours, theirs = pair
    ours.close()
    assert receive_frame(theirs) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<IQ", 1 << 30, 0), "at most"),
        (struct.pack("<IQ", 2, 1 << 60), "at most"),
        (struct.pack("<IQ", 3, 0) + b"{x}", "JSON"),
        (struct.pack("<IQ", 2, 0) + b"[]", "JSON"),
        (struct.pack("<IQ", 2, 0) + b"{}", "JSON"),
        (struct.pack("<IQ", 100_000, 0) + b"[" * 100_000, "JSON"),
        (struct.pack("<IQ", 15, 0) + b'{"buffers":[3]}', "3 bytes"),
        (struct.pack("<IQ", 13, 0) + b'{"buffers":5}', "sizes"),
        (struct.pack("<IQ", 18, 0) + b'{"buffers":[-1,1]}', "sizes"),
        (struct.pack("<IQ", 17, 0) + b'{"buffers":[0.0]}', "sizes"),
        (struct.pack("<IQ", 17, 0) + b'{"buffers":["a"]}', "sizes"),
    ],
)
def test_what_is_no_frame(pair: Pair, data: bytes, message: str) -> None:
    ours, theirs = pair
    ours.sendall(data)
    ours.close()
    with pytest.raises(FrameError, match=message):
        receive_frame(theirs)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x05\x00", "2 of 12 bytes"),
        (struct.pack("<IQ", 9, 0) + b"{", "1 of 9 bytes"),
    ],
)
def test_the_end_inside_a_frame_is_that_of_the_connection(pair: Pair, data: bytes, message: str) -> None:
    ours, theirs = pair
    ours.sendall(data)
    ours.close()
    with pytest.raises(ConnectionError, match=message):
        receive_frame(theirs)


@given(st.lists(st.lists(st.binary(max_size=9), max_size=3), max_size=4), st.integers(1, 40))
def test_frames_are_taken_when_they_are_complete(bodies: list[list[bytes]], piece: int) -> None:
    data, received, taken = b"".join(pack_frame({"a": 1}, body) for body in bodies), bytearray(), []
    for start in range(0, len(data), piece):
        received += data[start : start + piece]
        while (frame := take_frame(received)) is not None:
            taken.append(frame)
    assert taken == [({"a": 1}, body) for body in bodies]
    assert not received


@pytest.mark.parametrize(
    "data", [b"\x05", pack_frame({})[:-1], pack_frame({}) + b"x", pack_frame({}, [b"a"])[:-1]]
)
def test_a_piece_is_not_a_whole_frame(data: bytes) -> None:
    with pytest.raises(FrameError, match="bytes"):
        unpack_frame(data)


def test_what_announces_too_much_is_not_waited_for() -> None:
    with pytest.raises(FrameError, match="at most"):
        take_frame(bytearray(struct.pack("<IQ", 2**32 - 1, 0)))


def test_an_unknown_peer_may_send_little(pair: Pair) -> None:
    ours, theirs = pair
    send_frame(ours, {"a": 1}, [b"12"])
    send_frame(ours, {"a": 1}, [b"123"])
    size = len('{"a": 1, "buffers": [2]}') + 2
    assert receive_frame(theirs, size) == ({"a": 1}, [b"12"])
    with pytest.raises(FrameError, match=f"{size + 1} bytes"):
        receive_frame(theirs, size)
