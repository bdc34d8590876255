"""Which rank hangs: who does not move although he must; however long a step is, nobody who works is blamed."""

from __future__ import annotations

import threading

import pytest

from ernie_backend.parallel.messages import Beat
from ernie_backend.parallel.pulse import Pulse
from ernie_backend.parallel.vital_signs import VitalSigns, find_hanging
from ernie_kernels.communicator import CollectiveCounter

ALLOWED_S = 10.0


class Group:
    """Ranks whose meetings are written down, and a clock."""

    def __init__(self, *meetings: int, is_loading: bool = False) -> None:
        self.ranks = [VitalSigns(f"rank {rank}") for rank in range(len(meetings))]
        self._is_loading = is_loading
        self._now = 0.0
        for rank, count in zip(self.ranks, meetings, strict=True):
            self.beat(rank, count)

    def beat(self, rank: VitalSigns, meetings: int, ticks: int = 0, *, is_held: bool = False) -> bool:
        has_moved = rank.note(Beat((0, ticks, 0), meetings, is_held))
        rank.heard_at = self._now
        if has_moved:
            rank.moved_at = self._now
        return has_moved

    def after(self, seconds: float, *silent: int) -> str | None:
        """Who hangs when so many seconds have passed, if nobody has moved and all but some were heard?"""
        self._now += seconds
        for number, rank in enumerate(self.ranks):
            if number not in silent:
                rank.heard_at = self._now
        hanging = find_hanging(self.ranks, self._now, ALLOWED_S, is_loading=self._is_loading)
        return None if hanging is None else hanging.name


@pytest.mark.parametrize(
    ("meetings", "hanging"),
    [
        ((5, 4), "rank 1"),
        ((4, 5), "rank 0"),
        ((5, 5, 4, 5), "rank 2"),
        ((5, 5, 3, 4), "rank 2"),
        ((6, 5), "rank 1"),  # inside a meeting that the others have left
        ((4, 4), None),  # idle
        ((5, 5), None),  # who is it? the meeting will fail by itself
        ((7, 5, 5), None),  # one of them waits for the other
        ((6, 6, 5), "rank 2"),  # it has given up
    ],
)
def test_whom_the_others_wait_for_hangs(meetings: tuple[int, ...], hanging: str | None) -> None:
    group = Group(*meetings)
    assert group.after(9.0) is None
    assert group.after(2.0) == hanging


def test_who_is_silent_is_not_said_to_hang() -> None:
    group = Group(5, 4)
    assert group.after(9.0) is None
    assert group.after(9.0, 1) is None
    assert group.after(9.0) == "rank 1"


def test_who_is_held_hangs_wherever_the_others_are() -> None:
    group = Group(5, 5, 4)
    group.beat(group.ranks[1], 5, is_held=True)
    assert group.after(9.0) is None
    assert group.after(2.0) == "rank 1"


def test_a_long_step_is_no_hang() -> None:
    group = Group(5, 4)
    for ticks in range(1, 100):
        assert group.after(9.0) is None
        assert group.beat(group.ranks[1], 4, ticks)


def test_only_the_time_in_which_the_others_wait_counts() -> None:
    group = Group(4, 4)
    assert group.after(3600.0) is None
    group.beat(group.ranks[0], 5)
    assert group.after(9.0) is None


def test_one_of_two_in_a_meeting_is_not_blamed_because_its_time_is_up_first() -> None:
    group = Group(7, 5, 4)
    assert group.after(5.0) is None
    group.beat(group.ranks[2], 5)
    assert group.after(6.0) is None


@pytest.mark.parametrize(
    ("meetings", "hanging"),
    [
        ((1, 0), "rank 1"),  # has not come
        ((1, 1), None),  # both wait, as the kernel sees it
        ((2, 1), "rank 1"),
        ((2, 2), "rank 1"),  # rank 0 has loaded
    ],
)
def test_who_loads_must_move_unless_it_waits_for_the_others(
    meetings: tuple[int, ...], hanging: str | None
) -> None:
    group = Group(*meetings, is_loading=True)
    group.ranks[0].has_loaded = True
    assert group.after(9.0) is None
    assert group.after(2.0) == hanging


def test_a_pulse_tells_of_work_and_of_meetings_of_the_thread_that_made_it() -> None:
    pulse = Pulse()
    before, felt = pulse.beat(), []
    with pulse.collectives:
        while sum(pulse.beat().progress) == sum(before.progress):
            pass
        thread = threading.Thread(target=lambda: felt.append(pulse.beat()))
        thread.start()
        thread.join()
    (during,) = felt
    assert sum(during.progress) > sum(before.progress)
    assert (before.meetings, during.meetings, pulse.beat().meetings) == (0, 1, 2)
    assert not during.is_held
    assert not pulse.collectives.has_failed


def test_a_meeting_that_fails_is_over_and_remembered() -> None:
    meetings = CollectiveCounter()
    with pytest.raises(RuntimeError), meetings:
        raise RuntimeError
    assert (meetings.count, meetings.has_failed) == (2, True)
