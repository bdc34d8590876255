"""Ranks of other machines connect to rank 0; loopback addresses stand for the machines."""

from __future__ import annotations

import contextlib
import hmac
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ernie_backend.errors import StartError
from ernie_backend.parallel.handshake import HANDSHAKE_S, SECRET_VARIABLE
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.messages import CODEC, Challenge, Hello, Loaded, RankMessage, Refused
from ernie_backend.parallel.rendezvous import accept_ranks, connect_to_rank_0
from ernie_wire.frames import receive_frame, send_frame
from support.free_ports import free_port

PATIENCE_S = 60.0


@pytest.fixture
def layout() -> Layout:
    """Four ranks on two machines, as the first one sees it."""
    return Layout(4, ("127.0.0.1", "127.0.0.2"), 0, free_port())


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start ``work``; the function returned waits for its result, or raises what it raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except StartError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE_S)
        if isinstance(outcome[0], StartError):
            raise outcome[0]
        return outcome[0]

    return result


def connected(layout: Layout, own: str) -> socket.socket:
    """Return a connection from an address to the port of rank 0, as soon as it listens."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", layout.port), source_address=(own, 0))
        except ConnectionRefusedError:  # noqa: PERF203 - trying again is the point
            assert time.monotonic() < until
            time.sleep(0.02)


def received(sock: socket.socket) -> RankMessage:
    frame = receive_frame(sock)
    assert frame is not None
    return CODEC.decode(*frame)


def test_every_rank_of_the_other_machine_is_accepted_by_its_number(layout: Layout) -> None:
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    other = replace(layout, own_host=1)
    connections = {2 + index: connect_to_rank_0(other, index, PATIENCE_S) for index in (1, 0)}
    sockets = accepted()
    assert sorted(sockets) == [2, 3]
    for rank, sock in sockets.items():
        with sock, connections[rank]:
            send_frame(connections[rank], *CODEC.encode(Loaded(rank)))
            assert receive_frame(sock) == ({"kind": "Loaded", "num_blocks": rank}, [])


def connect_the_ranks(accepted: Callable[[], Any], layout: Layout) -> None:
    """Connect the real ranks, which ends the wait."""
    other = replace(layout, own_host=1)
    connections = [connect_to_rank_0(other, index, PATIENCE_S) for index in (0, 1)]
    for sock in (*accepted().values(), *connections):
        sock.close()


def test_a_rank_with_another_secret_is_refused_and_logged_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "ours")
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    for _ in range(2):
        with connected(layout, "127.0.0.2") as other:
            receive_frame(other)
            send_frame(other, *CODEC.encode(Hello(4, 2, 1, 0, "guessed")))
            answer = received(other)
            assert isinstance(answer, Refused)
            assert answer.reason.startswith("it does not know the secret; ERNIE_GROUP_SECRET must be the same")
            assert receive_frame(other) is None
    connect_the_ranks(accepted, layout)
    assert caplog.text.count("127.0.0.2 was refused: it does not know the secret") == 1


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (
            {"size": 8},
            "8 ranks .*tensor_parallel_size",
        ),
        (
            {"hosts": ("127.0.0.1", "127.0.0.2", "127.0.0.4", "127.0.0.5")},
            "4 machines.* ips",
        ),
        ({"hosts": ("127.0.0.1", "127.0.0.3")}, r"127\.0\.0\.3"),
    ],
)
def test_a_rank_of_another_group_ends_with_the_reason(
    layout: Layout, theirs: dict[str, Any], reason: str
) -> None:
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    where = rf"rank 0 at 127\.0\.0\.1:{layout.port} refuses this rank: "
    with pytest.raises(StartError, match=where + ".*" + reason):
        connect_to_rank_0(replace(layout, own_host=1, **theirs), 0, PATIENCE_S)
    connect_the_ranks(accepted, layout)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({"host": 0}, "machine 0 of the list"),
        ({"host": 2}, "machine 2 of the list"),
        ({"index": 2}, "rank 2 of 2 of its machine"),
        ({"index": "0"}, "the same version of ernie-triton"),
        ({"proof": 7}, "the same version of ernie-triton"),
        ({"proof": "\u00e9"}, "it does not know the secret"),
        ({"proof": "\ud800"}, "it does not know the secret"),
        ({"kind": "Welcome"}, "the same version of ernie-triton"),
        ({"more": 1}, "the same version of ernie-triton"),
    ],
)
def test_a_wrong_greeting_is_refused(layout: Layout, hello: dict[str, Any], reason: str) -> None:
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    with connected(layout, "127.0.0.2") as other:
        challenge = received(other)
        assert isinstance(challenge, Challenge)
        proof = hmac.new(b"", challenge.number.encode(), "sha256").hexdigest()
        greeting, _ = CODEC.encode(Hello(4, 2, 1, 0, proof))
        send_frame(other, {**greeting, **hello})
        answer = received(other)
        assert isinstance(answer, Refused)
        assert reason in answer.reason
    connect_the_ranks(accepted, layout)


@pytest.mark.parametrize("sent", [b"", struct.pack("<IQ", 4096, 1), struct.pack("<IQ", 4096, 0) + b"[" * 4096])
def test_a_peer_that_sends_nothing_or_too_much_does_not_delay_the_ranks(layout: Layout, sent: bytes) -> None:
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    strangers = [connected(layout, "127.0.0.2") for _ in range(20)]
    for stranger in strangers:
        stranger.sendall(sent)
    began = time.monotonic()
    connect_the_ranks(accepted, layout)
    assert time.monotonic() - began < 5 * HANDSHAKE_S  # one after another they would take twenty times as long
    for stranger in strangers:
        stranger.settimeout(PATIENCE_S)
        with stranger, contextlib.suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass


def test_a_peer_that_drips_bytes_is_cut_off(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_backend.parallel.rendezvous.HANDSHAKE_S", 1.0)
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    with connected(layout, "127.0.0.2") as other:
        other.settimeout(0.02)
        until, end = time.monotonic() + PATIENCE_S, b"more"
        with contextlib.suppress(ConnectionError):
            other.sendall(struct.pack("<IQ", 4096, 0))
            while end:
                assert time.monotonic() < until
                other.send(b"\0")
                with contextlib.suppress(TimeoutError):
                    end = other.recv(4096)
    monkeypatch.undo()
    connect_the_ranks(accepted, layout)


def test_a_restarted_rank_replaces_the_previous_one(layout: Layout) -> None:
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    other = replace(layout, own_host=1)
    with connect_to_rank_0(other, 0, PATIENCE_S) as earlier, connect_to_rank_0(other, 0, PATIENCE_S) as later:
        earlier.settimeout(PATIENCE_S)
        assert receive_frame(earlier) is None
        with connect_to_rank_0(other, 1, PATIENCE_S):
            sockets = accepted()
            send_frame(sockets[2], {"to": "the later"})
            assert receive_frame(later) == ({"to": "the later"}, [])
            for sock in sockets.values():
                sock.close()


def test_an_error_while_waiting_closes_the_port(layout: Layout) -> None:
    def end() -> None:
        raise StartError("a rank of this machine has died")

    with pytest.raises(StartError, match="died"):
        accept_ranks(layout, end)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", layout.port))


def test_one_machine_needs_no_port(layout: Layout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", layout.port))
        taken.listen()
        assert accept_ranks(replace(layout, hosts=("127.0.0.1",))) == {}


def test_a_missing_machine_is_named_with_the_last_refusal(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def monotonic() -> float:
        """Time passes to the end of the wait as soon as a peer was refused."""
        return time.monotonic() + (2 * PATIENCE_S if "was refused" in caplog.text else 0)

    monkeypatch.setattr("ernie_backend.parallel.rendezvous.time", SimpleNamespace(monotonic=monotonic))
    accepted = in_thread(lambda: accept_ranks(layout, timeout_s=PATIENCE_S))
    with connected(layout, "127.0.0.3") as other:
        assert isinstance(received(other), Refused)
    with pytest.raises(StartError, match=r"127\.0\.0\.2 .*127\.0\.0\.3"):
        accepted()


def test_a_machine_whose_ranks_do_not_connect_is_named(layout: Layout) -> None:
    with pytest.raises(StartError, match=rf"127\.0\.0\.2 .*{layout.port}"):
        accept_ranks(layout, timeout_s=0.0)


def test_a_first_machine_that_does_not_listen_is_named(layout: Layout) -> None:
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{layout.port} .*refused"):
        connect_to_rank_0(replace(layout, own_host=1), 0, 0.0)


def test_a_taken_port_is_named_with_the_flag_that_changes_it(layout: Layout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", layout.port))
        taken.listen()
        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{layout.port}: .*engine_worker_queue_port"):
            accept_ranks(layout, timeout_s=0.0)
