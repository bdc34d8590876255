"""The engine's end of the socket: a fault in a thread ends the process, a frame too large only its request."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from ernie_backend.service import connection
from ernie_backend.service.connection import Connection
from ernie_wire.frames import receive_frame, send_frame
from ernie_wire.messages import CODEC, Cancel, Heartbeat, Message, Output, Outputs, Ready
from fakes.descriptions import description

WAIT_S = 60.0


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[int]:
    """The statuses with which the process would have ended."""
    statuses: queue.SimpleQueue[int] = queue.SimpleQueue()

    monkeypatch.setattr(connection, "_leave", lambda _, status: statuses.put(status))
    return statuses


@pytest.fixture
def stub(exits: queue.SimpleQueue[int]) -> Iterator[tuple[socket.socket, Connection]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    with theirs:
        with ours:
            yield ours, Connection(theirs)
        for thread in threading.enumerate():
            if thread.name == "reader of the stub":  # it sees the end while ``exits`` stands in for it
                thread.join(WAIT_S)


def received(sock: socket.socket) -> Message:
    frame = receive_frame(sock)
    assert frame is not None
    return CODEC.decode(*frame)


def test_outputs_too_large_fail_their_request_and_no_other(
    stub: tuple[socket.socket, Connection], exits: queue.SimpleQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ernie_wire.frames.MAX_HEADER_BYTES", 1000)
    ours, ends = stub
    cancels: queue.SimpleQueue[Message] = queue.SimpleQueue()
    ends.receive_with(cancels.put)
    ends.send(Outputs((Output("a", "x" * 700), Output("b", "y" * 1000), Output("c", "z" * 700))))
    made: list[Output] = []
    while len(made) < 3:
        message = received(ours)
        assert isinstance(message, Outputs)
        made += message.outputs
    assert [output.text for output in (made[0], made[2])] == ["x" * 700, "z" * 700]
    assert made[1].request_id == "b"
    assert str(made[1].error).startswith("invalid_value: the answer is too large")
    assert cancels.get(timeout=WAIT_S) == Cancel("b")
    assert exits.empty()


def test_a_reader_that_meets_a_fault_ends_the_process(
    stub: tuple[socket.socket, Connection], exits: queue.SimpleQueue[int]
) -> None:
    ours, ends = stub

    def fail(_: Message) -> None:
        raise RecursionError

    ends.receive_with(fail)
    send_frame(ours, *CODEC.encode(Cancel("r")))
    assert exits.get(timeout=WAIT_S) == 1


def test_a_header_nested_too_deeply_ends_the_process(
    stub: tuple[socket.socket, Connection], exits: queue.SimpleQueue[int]
) -> None:
    ours, _ = stub
    text = b'{"kind": ' + b"[" * 100_000
    ours.sendall(len(text).to_bytes(4, "little") + (0).to_bytes(8, "little") + text)
    assert exits.get(timeout=WAIT_S) == 1


def test_a_writer_that_meets_a_fault_ends_the_process(
    stub: tuple[socket.socket, Connection], exits: queue.SimpleQueue[int]
) -> None:
    ours, ends = stub
    ends.send(Heartbeat(0, 0, 1, 1, 1))
    assert isinstance(received(ours), Heartbeat)
    ends.send(Ready(description(generation_config={"not": {1}})))
    assert exits.get(timeout=WAIT_S) == 1
