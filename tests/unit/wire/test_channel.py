"""A channel: messages both ways, and how each end learns that the other is gone or talks nonsense."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from ernie_wire.channel import Channel
from ernie_wire.frames import FrameError, FrameTooLarge, send_frame
from ernie_wire.messages import CODEC, Alive, Cancel, Fault, Message, Output, Outputs, StartFailed
from support.waiting import eventually

WAIT_S = 60.0
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(WAIT_S)
    with ours, theirs:
        yield ours, theirs


class Heard:
    """What a channel that listens has told."""

    def __init__(self, channel: Channel[Message]) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._end: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        channel.listen(self.messages.put, self._end.put)

    def end(self) -> Exception | None:
        return self._end.get(timeout=WAIT_S)


@pytest.mark.parametrize("has_writer", [False, True])
def test_messages_arrive_in_order_and_then_the_end(pair: Pair, has_writer: bool) -> None:
    ours, peer = Channel(pair[0], CODEC, "peer", has_writer=has_writer), Channel(pair[1], CODEC, "us")
    heard = Heard(ours)
    for number in range(3):
        ours.send(Cancel(str(number)))
        peer.send(Cancel(str(-number)))
    assert [peer.receive() for _ in range(3)] == [Cancel("0"), Cancel("1"), Cancel("2")]
    peer.break_off()
    assert heard.end() is None
    assert [heard.messages.get_nowait() for _ in range(3)] == [Cancel("0"), Cancel("-1"), Cancel("-2")]


def test_threads_do_not_send_into_each_others_frames(pair: Pair) -> None:
    ours, peer = Channel(pair[0], CODEC, "peer"), Channel(pair[1], CODEC, "us")
    texts = [str(number) * 300_000 for number in range(4)]  # each more than the socket takes at once
    senders = [threading.Thread(target=ours.send, args=(Fault(text),), daemon=True) for text in texts]
    for sender in senders:
        sender.start()
    came = [peer.receive() for _ in texts]
    assert sorted(message.cause for message in came if isinstance(message, Fault)) == texts


def test_a_peer_that_does_not_read_holds_nobody_up_and_gets_all_in_order(pair: Pair) -> None:
    ours, peer = Channel(pair[0], CODEC, "peer", has_writer=True), Channel(pair[1], CODEC, "us")
    messages = [StartFailed(f"{number}" + "x" * 100_000) for number in range(20)]
    for message in messages:
        ours.send(message)
    assert [peer.receive() for _ in messages] == messages
    ours.flush()


def test_flush_ends_after_what_is_queued(pair: Pair) -> None:
    ours, peer = Channel(pair[0], CODEC, "peer", has_writer=True), Channel(pair[1], CODEC, "us")
    ours.send(StartFailed("no weights"))
    ours.flush()
    assert (peer.receive(), peer.receive()) == (StartFailed("no weights"), None)
    peer.send(Alive())
    assert ours.receive() == Alive()


@pytest.mark.parametrize("has_writer", [False, True])
def test_what_cannot_be_sent_is_lost_and_the_reader_learns_it_after_all_that_came(
    pair: Pair, has_writer: bool
) -> None:
    ours, peer = Channel(pair[0], CODEC, "peer", has_writer=has_writer), Channel(pair[1], CODEC, "us")
    peer.send(Fault("the disk is gone"))
    pair[1].shutdown(socket.SHUT_RD)  # it takes nothing more, and does not end
    ours.send(Alive())
    ours.flush()
    pair[0].settimeout(WAIT_S)
    assert (ours.receive(), ours.receive()) == (Fault("the disk is gone"), None)


def test_a_peer_that_dies_inside_a_frame_has_ended(pair: Pair) -> None:
    heard = Heard(Channel(pair[0], CODEC, "peer"))
    pair[1].sendall(b"\x05\x00")
    pair[1].close()
    assert heard.end() is None


def test_nonsense_is_told(pair: Pair) -> None:
    heard = Heard(Channel(pair[0], CODEC, "peer"))
    send_frame(pair[1], {"kind": "Nonsense"})
    assert isinstance(heard.end(), FrameError)
    assert pair[1].recv(1) == b""


def test_a_fault_of_who_takes_a_message_is_told(pair: Pair) -> None:
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def fail(_: Message) -> None:
        raise RecursionError

    Channel(pair[0], CODEC, "peer").listen(fail, ended.put)
    Channel(pair[1], CODEC, "us").send(Alive())
    assert isinstance(ended.get(timeout=WAIT_S), RecursionError)


def test_a_fault_of_the_writer_is_told(pair: Pair) -> None:
    ours = Channel(pair[0], CODEC, "peer", has_writer=True)
    heard = Heard(ours)
    ours.send(Fault({1}))  # type: ignore[arg-type]
    assert isinstance(heard.end(), TypeError)
    assert pair[1].recv(1) == b""


def test_what_no_frame_holds_is_replaced(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_wire.frames.MAX_HEADER_BYTES", 200)

    def one_by_one(message: Message, _: FrameTooLarge) -> tuple[Message, ...]:
        assert isinstance(message, Outputs)
        outputs = [Outputs((output,)) for output in message.outputs]
        return tuple(outputs) if len(outputs) > 1 else ()

    ours, peer = Channel(pair[0], CODEC, "peer", instead=one_by_one), Channel(pair[1], CODEC, "us")
    ours.send(Outputs((Output("a", "x" * 100), Output("b", "y" * 200), Output("c", "z" * 100))))
    came = [peer.receive() for _ in range(2)]
    assert [each.outputs[0].request_id for each in came if isinstance(each, Outputs)] == ["a", "c"]
    with pytest.raises(FrameTooLarge):
        Channel(pair[0], CODEC, "peer").send(Fault("x" * 300))


def test_close_does_not_wait_for_a_peer_that_does_not_read(pair: Pair) -> None:
    num_threads = threading.active_count()
    ours = Channel(pair[0], CODEC, "deaf", has_writer=True)
    for _ in range(3):
        ours.send(Fault("x" * 1_000_000))
    ours.close()
    assert pair[0].fileno() == -1
    eventually(lambda: threading.active_count() <= num_threads)
