"""Which rank hangs: one that makes no progress although it must; a rank that works is never blamed."""

from __future__ import annotations

import threading

import pytest

from ernie_backend.parallel.liveness import HeartbeatSource, RankLiveness, find_hanging
from ernie_backend.parallel.messages import Heartbeat
from ernie_kernels.communicator import CollectiveCounter

ALLOWED_S = 10.0


class Group:
    """Ranks with scripted collectives, and a clock."""

    def __init__(self, *collectives: int, is_loading: bool = False) -> None:
        self.ranks = [RankLiveness(f"rank {rank}") for rank in range(len(collectives))]
        self._is_loading = is_loading
        self._now = 0.0
        for rank, count in zip(self.ranks, collectives, strict=True):
            self.beat(rank, count)

    def beat(self, rank: RankLiveness, collectives: int, ticks: int = 0, *, is_stopped: bool = False) -> bool:
        has_progressed = rank.update(Heartbeat((0, ticks, 0), collectives, is_stopped))
        rank.heard_at = self._now
        if has_progressed:
            rank.progressed_at = self._now
        return has_progressed

    def after(self, seconds: float, *silent: int) -> str | None:
        """Which rank hangs when the seconds have passed without progress, and all but ``silent`` were heard?"""
        self._now += seconds
        for number, rank in enumerate(self.ranks):
            if number not in silent:
                rank.heard_at = self._now
        hanging = find_hanging(self.ranks, self._now, ALLOWED_S, is_loading=self._is_loading)
        return None if hanging is None else hanging.name


@pytest.mark.parametrize(
    ("collectives", "hanging"),
    [
        ((5, 4), "rank 1"),
        ((4, 5), "rank 0"),
        ((5, 5, 4, 5), "rank 2"),
        ((5, 5, 3, 4), "rank 2"),
        ((6, 5), "rank 1"),  # inside a collective that the others have left
        ((4, 4), None),  # idle
        ((5, 5), None),  # which one is unknown: the collective will fail by itself
        ((7, 5, 5), None),  # one of them waits for the other
        ((6, 6, 5), "rank 2"),  # it has given up
    ],
)
def test_a_rank_that_the_others_wait_for_hangs(collectives: tuple[int, ...], hanging: str | None) -> None:
    group = Group(*collectives)
    assert group.after(9.0) is None
    assert group.after(2.0) == hanging


def test_a_silent_rank_is_not_said_to_hang() -> None:
    group = Group(5, 4)
    assert group.after(9.0) is None
    assert group.after(9.0, 1) is None
    assert group.after(9.0) == "rank 1"


def test_a_stopped_rank_hangs_wherever_the_others_are() -> None:
    group = Group(5, 5, 4)
    group.beat(group.ranks[1], 5, is_stopped=True)
    assert group.after(9.0) is None
    assert group.after(2.0) == "rank 1"


def test_a_long_step_is_not_a_hang() -> None:
    group = Group(5, 4)
    for ticks in range(1, 100):
        assert group.after(9.0) is None
        assert group.beat(group.ranks[1], 4, ticks)


def test_only_the_time_in_which_the_others_wait_counts() -> None:
    group = Group(4, 4)
    assert group.after(3600.0) is None
    group.beat(group.ranks[0], 5)
    assert group.after(9.0) is None


def test_one_of_two_in_a_collective_is_not_blamed_because_its_time_is_up_first() -> None:
    group = Group(7, 5, 4)
    assert group.after(5.0) is None
    group.beat(group.ranks[2], 5)
    assert group.after(6.0) is None


@pytest.mark.parametrize(
    ("collectives", "hanging"),
    [
        ((1, 0), "rank 1"),  # has not come
        ((1, 1), None),  # both wait, as the kernel sees it
        ((2, 1), "rank 1"),
        ((2, 2), "rank 1"),  # rank 0 has loaded
    ],
)
def test_a_loading_rank_must_make_progress_unless_it_waits_for_the_others(
    collectives: tuple[int, ...], hanging: str | None
) -> None:
    group = Group(*collectives, is_loading=True)
    group.ranks[0].has_loaded = True
    assert group.after(9.0) is None
    assert group.after(2.0) == hanging


def test_a_heartbeat_shows_work_and_collectives_of_the_thread_that_made_its_source() -> None:
    source = HeartbeatSource()
    before, read = source.read(), []
    with source.collectives:
        while sum(source.read().progress) == sum(before.progress):
            pass
        thread = threading.Thread(target=lambda: read.append(source.read()))
        thread.start()
        thread.join()
    (during,) = read
    assert sum(during.progress) > sum(before.progress)
    assert (before.collectives, during.collectives, source.read().collectives) == (0, 1, 2)
    assert not during.is_stopped
    assert not source.collectives.has_failed


def test_a_collective_that_fails_is_over_and_remembered() -> None:
    counter = CollectiveCounter()
    with pytest.raises(RuntimeError), counter:
        raise RuntimeError
    assert (counter.count, counter.has_failed) == (2, True)
