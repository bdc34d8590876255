"""Ranks of other machines meet rank 0; loopback addresses stand for the machines."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.meeting import SECRET_VARIABLE, meet_ranks, reach_rank_0
from ernie_backend.parallel.messages import Loaded, to_frame
from ernie_wire.frames import receive_frame, send_frame

PATIENCE_S = 60.0


@pytest.fixture
def layout() -> Layout:
    """Four ranks on two machines, as the first one sees it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Layout(4, ("127.0.0.1", "127.0.0.2"), 0, port)


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
    """Return a connection from an address to where ranks meet, as soon as that is there."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", layout.port), source_address=(own, 0))
        except ConnectionRefusedError:  # noqa: PERF203 - trying again is the point
            assert time.monotonic() < until
            time.sleep(0.02)


def test_every_rank_of_the_other_machine_is_met_by_its_number(layout: Layout) -> None:
    met = in_thread(lambda: meet_ranks(layout, PATIENCE_S))
    other = replace(layout, own_host=1)
    came = {2 + index: reach_rank_0(other, index, PATIENCE_S) for index in (1, 0)}
    sockets = met()
    assert sorted(sockets) == [2, 3]
    for rank, sock in sockets.items():
        with sock, came[rank]:
            send_frame(came[rank], *to_frame(Loaded(rank)))
            assert receive_frame(sock) == ({"kind": "Loaded", "num_blocks": rank}, [])


def test_a_rank_without_the_secret_is_turned_away(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "ours")
    met = in_thread(lambda: meet_ranks(layout, 3.0))
    with connected(layout, "127.0.0.2") as other:
        receive_frame(other)
        send_frame(other, {"kind": "Hello", "host": 1, "index": 0, "proof": "guessed"})
        assert receive_frame(other) is None
    with pytest.raises(StartError, match=r"no rank came from 127\.0\.0\.2"):
        met()
    assert "does not know the secret" in caplog.text


def test_an_address_that_is_not_in_the_list_is_turned_away(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    met = in_thread(lambda: meet_ranks(layout, 3.0))
    with connected(layout, "127.0.0.3") as other:
        assert receive_frame(other) is None
    with pytest.raises(StartError, match="no rank came"):
        met()
    assert "from 127.0.0.3 is turned away" in caplog.text


def test_a_machine_whose_ranks_do_not_come_is_named(layout: Layout) -> None:
    with pytest.raises(StartError, match=rf"no rank came from 127\.0\.0\.2 in 0 s; .* port {layout.port}"):
        meet_ranks(layout, 0.0)


def test_a_first_machine_that_does_not_listen_is_named(layout: Layout) -> None:
    with pytest.raises(
        StartError, match=rf"rank 0 cannot be reached at 127\.0\.0\.1:{layout.port} \(.*refused\)"
    ):
        reach_rank_0(replace(layout, own_host=1), 0, 0.0)


def test_a_taken_port_is_named_with_the_flag_that_changes_it(layout: Layout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", layout.port))
        taken.listen()
        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{layout.port}: .*engine_worker_queue_port"):
            meet_ranks(layout, 0.0)
