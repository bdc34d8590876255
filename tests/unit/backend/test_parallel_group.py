"""The group as rank 0 sees it: what is agreed on, and which loss ends it with which cause."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ernie_backend.errors import StartError
from ernie_backend.parallel.group import GroupObserver, RankGroup, Timeouts
from ernie_backend.parallel.liveness import HeartbeatSource
from ernie_backend.parallel.messages import (
    CODEC,
    Allocate,
    BarrierArrival,
    BarrierRelease,
    Failed,
    Heartbeat,
    Loaded,
    RankMessage,
    Step,
)
from ernie_backend.parallel.rank_channel import RankChannel
from ernie_kernels.api import Batch
from ernie_wire.frames import receive_frame, send_frame

PATIENCE_S = 60.0


class Observer(GroupObserver):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.causes: queue.Queue[str] = queue.Queue()
        self.progress: queue.Queue[None] = queue.Queue()

    def on_progress(self) -> None:
        self.progress.put(None)

    def on_failure(self, cause: str, exit_signal: int | None, /) -> None:
        self.causes.put(cause)


class Rank:
    """The other end of a channel."""

    def __init__(self, name: str) -> None:
        ours, self.socket = socket.socketpair()
        self.channel = RankChannel(name, ours)

    def say(self, message: RankMessage) -> None:
        send_frame(self.socket, *CODEC.encode(message))

    def keep_saying(self, message: RankMessage) -> None:
        """Say a message again and again, from a thread, until the connection ends."""
        threading.Thread(target=self._keep_saying, args=(message,), daemon=True).start()

    def _keep_saying(self, message: RankMessage) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.say(message)
                time.sleep(0.05)

    def hear(self) -> RankMessage | None:
        frame = receive_frame(self.socket)
        return None if frame is None else CODEC.decode(*frame)


class ScriptedSource(HeartbeatSource):
    """Rank 0's: it has done this many collectives, and makes no progress."""

    def __init__(self, collectives: int) -> None:
        super().__init__()
        self.collectives.count = collectives

    def read(self) -> Heartbeat:
        return Heartbeat((0, 0, 0), self.collectives.count)


def group_of(
    ranks: list[Rank], timeouts: Timeouts | None = None, source: HeartbeatSource | None = None
) -> tuple[RankGroup, Observer]:
    observer = Observer()
    channels = [rank.channel for rank in ranks]
    return RankGroup(channels, observer, source or HeartbeatSource(), timeouts), observer


@pytest.fixture
def a_pause_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process hosts all ranks; when it did not run, none of them was silent."""
    monkeypatch.setattr("ernie_backend.parallel.group._SUSPENDED_S", 0.5)


@pytest.fixture
def ranks() -> Iterator[list[Rank]]:
    made = [Rank("rank 1"), Rank("rank 2")]
    yield made
    for rank in made:
        rank.socket.close()


def batch() -> Batch:
    zeros = np.zeros(1, np.int32)
    return Batch(zeros, zeros, np.array([0, 1], np.int32), zeros, np.zeros((1, 1), np.int32), zeros)


class SlowObserver(Observer):
    """Reports late, as one that must write to a socket first."""

    def on_failure(self, cause: str, exit_signal: int | None, /) -> None:
        time.sleep(0.3)
        super().on_failure(cause, exit_signal)


def test_an_error_that_follows_from_a_death_waits_until_the_death_is_reported(ranks: list[Rank]) -> None:
    observer = SlowObserver()
    group = RankGroup([rank.channel for rank in ranks], observer, HeartbeatSource())
    ranks[0].socket.close()
    with pytest.raises(RuntimeError, match="a sum failed"), group.root_cause_first():
        raise RuntimeError("a sum failed")
    assert observer.causes.get_nowait().startswith("rank 1 ")


def test_so_does_a_start_without_the_others(ranks: list[Rank]) -> None:
    observer = SlowObserver()
    source = ScriptedSource(0)
    group = RankGroup([rank.channel for rank in ranks], observer, source)
    ranks[0].socket.close()
    with contextlib.suppress(RuntimeError), source.collectives:
        raise RuntimeError
    with pytest.raises(StartError, match="no others"), group.root_cause_first():
        raise StartError("no others")
    assert observer.causes.get_nowait().startswith("rank 1 ")


def test_a_clear_error_of_rank_0_is_not_delayed(ranks: list[Rank], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_backend.parallel.group._ROOT_CAUSE_S", 1000.0)  # longer than a test may take
    group, _ = group_of(ranks)
    with pytest.raises(StartError, match="no weights"), group.root_cause_first():
        raise StartError("no weights")


def test_a_start_that_a_death_ends_waits_until_the_death_is_reported(ranks: list[Rank]) -> None:
    observer = SlowObserver()
    group = RankGroup([rank.channel for rank in ranks], observer, HeartbeatSource())
    ranks[0].socket.close()
    with pytest.raises(StartError, match="lost"):
        group.least_blocks(6)
    assert observer.causes.get_nowait().startswith("rank 1 ")


def test_no_rank_joins_before_all_have_arrived(ranks: list[Rank]) -> None:
    group, _ = group_of(ranks)
    coming = threading.Thread(target=group.barrier, daemon=True)
    coming.start()
    ranks[0].say(BarrierArrival())
    ranks[0].socket.settimeout(1.0)
    with pytest.raises(TimeoutError):
        ranks[0].hear()
    ranks[0].socket.settimeout(PATIENCE_S)
    ranks[1].say(BarrierArrival())
    assert [rank.hear() for rank in ranks] == [BarrierRelease(), BarrierRelease()]
    coming.join(PATIENCE_S)
    group.kill()


def test_the_smallest_cache_is_agreed_on_and_steps_go_to_all(ranks: list[Rank]) -> None:
    group, _ = group_of(ranks)
    for rank, count in zip(ranks, (7, 5), strict=True):
        rank.say(Loaded(count))
    assert group.least_blocks(6) == 5
    group.allocate(5)
    group.send(Step(batch()))
    for rank in ranks:
        assert rank.hear() == Allocate(5)
        assert isinstance(rank.hear(), Step)
    group.kill()


def test_progress_is_reported_until_all_have_loaded(ranks: list[Rank]) -> None:
    group, observer = group_of(ranks)
    ranks[0].say(Heartbeat((1, 0, 0), 0))
    observer.progress.get(timeout=PATIENCE_S)
    ranks[0].say(Heartbeat((1, 0, 0), 0))  # no progress
    group.allocate(1)
    ranks[0].say(Heartbeat((2, 0, 0), 0))
    ranks[0].say(Failed("over"))
    observer.causes.get(timeout=PATIENCE_S)
    assert observer.progress.empty()


def test_a_failed_rank_is_reported_in_its_own_words_and_the_others_end(ranks: list[Rank]) -> None:
    _, observer = group_of(ranks)
    ranks[1].say(Failed("the disk is gone"))
    assert observer.causes.get(timeout=PATIENCE_S) == "rank 2: the disk is gone"
    assert ranks[0].hear() is None
    assert observer.causes.empty()


def test_the_end_of_a_connection_ends_the_group(ranks: list[Rank]) -> None:
    _, observer = group_of(ranks)
    ranks[0].socket.close()
    assert observer.causes.get(timeout=PATIENCE_S).startswith("rank 1 ")


def test_a_silent_rank_ends_the_group(ranks: list[Rank]) -> None:
    _, observer = group_of(ranks, Timeouts(loading_s=0.2))
    assert "silent" in observer.causes.get(timeout=PATIENCE_S)


@pytest.mark.usefixtures("a_pause_is_no_silence")
@pytest.mark.parametrize(
    ("collectives", "hanging"), [((9, 8, 9), "rank 1"), ((9, 9, 8), "rank 2"), ((8, 9, 9), "rank 0")]
)
def test_the_rank_that_the_others_wait_for_ends_the_group(
    ranks: list[Rank], collectives: tuple[int, int, int], hanging: str
) -> None:
    group, observer = group_of(ranks, Timeouts(serving_s=1.0), ScriptedSource(collectives[0]))
    group.allocate(1)
    for rank, count in zip(ranks, collectives[1:], strict=True):
        rank.keep_saying(Heartbeat((0, 0, 0), count))
    assert observer.causes.get(timeout=PATIENCE_S).startswith(f"{hanging} hangs")


@pytest.mark.usefixtures("a_pause_is_no_silence")
def test_a_rank_that_hangs_while_it_loads_ends_the_group(ranks: list[Rank]) -> None:
    # Rank 0 is inside the collective that the others have left.
    _, observer = group_of(ranks, Timeouts(loading_s=1.0), ScriptedSource(1))
    for rank in ranks:
        rank.say(Loaded(1))
        rank.keep_saying(Heartbeat((0, 0, 0), 2))
    assert observer.causes.get(timeout=PATIENCE_S).startswith("rank 0 hangs")


def test_a_rank_that_sends_nonsense_is_named(ranks: list[Rank]) -> None:
    _, observer = group_of(ranks)
    send_frame(ranks[1].socket, {"kind": "Nonsense"})
    assert observer.causes.get(timeout=PATIENCE_S).startswith("rank 2 sent")


def test_waiting_for_a_lost_rank_ends(ranks: list[Rank]) -> None:
    group, observer = group_of(ranks)
    ranks[0].socket.close()
    observer.causes.get(timeout=PATIENCE_S)
    with pytest.raises(StartError, match="lost"):
        group.least_blocks(1)
