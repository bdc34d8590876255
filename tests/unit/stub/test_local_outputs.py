"""Outputs that go to a frontend of the same machine past Triton: one message for a step, and what ends it."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from ernie_stub import local_outputs
from ernie_stub.in_flight import InFlight
from ernie_stub.local_outputs import LocalFrontend, LocalOutputs
from ernie_stub.response_stream import ResponseStream, Senders
from ernie_wire.channel import Channel
from ernie_wire.messages import CODEC, Cancel, Connected, GenerateRequest, Message, Output, Outputs
from fakes.triton_python_backend_utils import ResponseSender

WAIT_S = 60.0


class Stub:
    """What ``triton_model`` connects, with a queue for the engine's messages."""

    def __init__(self) -> None:
        self.engine: queue.Queue[Message] = queue.Queue()
        self.lost = threading.Event()
        self.now_s = 1000.0
        self.in_flight = InFlight(clock=lambda: self.now_s)
        self.in_flight.connect(self)
        self.outputs = LocalOutputs(self._lose)
        self.senders = Senders(1)

    def send(self, message: Message) -> None:
        self.engine.put(message)

    def _lose(self, frontend: LocalFrontend) -> None:
        self.in_flight.abandon_all(frontend)
        self.lost.set()

    def submit(self, request_id: str, connection_id: str) -> tuple[ResponseSender, str]:
        """Return Triton's sender of a new request, and the engine's id of it."""
        request = GenerateRequest(request_id, "Hi", stream=True, return_outputs=True, deliver_to=connection_id)
        sender = ResponseSender()
        frontend = self.outputs.frontend(connection_id)
        stream = ResponseStream(request, sender, self.senders.bind(), self.in_flight.abandon, frontend)
        self.in_flight.submit(request, stream)
        message = self.engine.get(timeout=WAIT_S)
        assert isinstance(message, GenerateRequest)
        return sender, message.request_id

    def close(self) -> None:
        self.outputs.close()
        self.senders.close(WAIT_S)


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def connect(stub: Stub) -> Iterator[Callable[[], Channel[Message]]]:
    opened: list[Channel[Message]] = []

    def connect() -> Channel[Message]:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"\0{stub.outputs.address}")
        opened.append(Channel(sock, CODEC, "the stub"))
        return opened[-1]

    yield connect
    for channel in opened:
        channel.close()


def connected(channel: Channel[Message]) -> str:
    message = channel.receive()
    assert isinstance(message, Connected)
    return message.connection_id


def test_a_step_is_one_message_and_triton_gets_the_ends_alone(
    stub: Stub, connect: Callable[[], Channel[Message]]
) -> None:
    frontend = connect()
    connection_id = connected(frontend)
    (a_sender, a), (b_sender, b) = (stub.submit(name, connection_id) for name in "ab")
    stub.in_flight.deliver([Output(a, "1"), Output(b, "2")])
    assert frontend.receive() == Outputs((Output("a", "1"), Output("b", "2")))
    stub.in_flight.deliver([Output(a, "3", finish_reason="stop"), Output(b, error="internal_error: no")])
    last = Outputs((Output("a", "3", finish_reason="stop"), Output("b", error="internal_error: no")))
    assert frontend.receive() == last
    for sender in (a_sender, b_sender):
        assert sender.finished.wait(WAIT_S)
        assert not sender.responses


def test_a_cancelled_request_ends_on_the_connection(
    stub: Stub, connect: Callable[[], Channel[Message]]
) -> None:
    frontend = connect()
    sender, engine_id = stub.submit("a", connected(frontend))
    assert stub.in_flight.cancel("a")
    message = frontend.receive()
    assert isinstance(message, Outputs)
    assert "cancelled" in (message.outputs[0].error or "")
    assert sender.finished.wait(WAIT_S)
    assert stub.engine.get(timeout=WAIT_S) == Cancel(engine_id)


def test_the_requests_of_a_lost_frontend_are_cancelled_and_no_others(
    stub: Stub, connect: Callable[[], Channel[Message]]
) -> None:
    first, second = connect(), connect()
    sender, engine_id = stub.submit("a", connected(first))
    stub.submit("b", connected(second))
    first.break_off()
    assert stub.engine.get(timeout=WAIT_S) == Cancel(engine_id)
    assert "cancelled" in sender.error_line()
    assert stub.in_flight.holds("b")


def test_a_request_with_a_connection_is_polled_less_often(
    stub: Stub, connect: Callable[[], Channel[Message]]
) -> None:
    connection_id = connected(connect())
    begun = stub.now_s
    stub.submit("delivered", connection_id)
    stub.submit("other", "")
    polled = []
    for tick in range(1, 50):
        stub.now_s = begun + tick / 8
        while (stream := stub.in_flight.next_to_poll(1 / 8)) is not None:
            polled.append(stream.request_id)
    assert polled.count("other") == 49
    assert polled.count("delivered") == 2


def test_without_its_connection_a_request_is_answered_through_triton(stub: Stub) -> None:
    sender, engine_id = stub.submit("a", "unknown")
    stub.in_flight.deliver([Output(engine_id, "1", finish_reason="stop")])
    assert sender.finished.wait(WAIT_S)
    assert [list(response.values()) for response in sender.responses] == [["outputs"]]


def test_a_frontend_that_does_not_read_is_disconnected(
    stub: Stub, connect: Callable[[], Channel[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_outputs, "MAX_STALL_S", 1)
    _, engine_id = stub.submit("a", connected(connect()))
    stub.in_flight.deliver([Output(engine_id, "x" * 10_000_000)])
    assert stub.lost.wait(WAIT_S)
    assert not stub.in_flight.holds("a")


def test_a_large_output_hurts_no_other_request(stub: Stub, connect: Callable[[], Channel[Message]]) -> None:
    frontend = connect()
    connection_id = connected(frontend)
    (_, large), (_, small) = (stub.submit(name, connection_id) for name in ("large", "small"))
    output = Output(large, "x", prompt_bytes=(b"x" * (65 << 20),))
    stub.in_flight.deliver([output])
    stub.in_flight.deliver([Output(small, "y")])
    assert frontend.receive() == Outputs((output.renamed("large"),))
    assert frontend.receive() == Outputs((Output("small", "y"),))


def test_another_user_is_refused(
    stub: Stub, connect: Callable[[], Channel[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_outputs, "_user_of", lambda _: 12345)
    assert connect().receive() is None
