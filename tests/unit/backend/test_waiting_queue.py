"""The queue: order, bounds, the hint to those it refuses, and those who waited too long."""

from __future__ import annotations

import pytest

from ernie_backend.request.sequence import Sequence
from ernie_backend.scheduler.waiting_queue import LONGEST_RETRY_S, WaitingQueue
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.errors import QueueFull
from fakes.sequences import make_sequence


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _sequence(name: str, arrival: int = 0, priority: int = 0, tokens: int = 1) -> Sequence:
    sequence = make_sequence(name, (1,) * tokens, 1, priority=priority)
    sequence.arrival = arrival
    return sequence


def _names(queue: WaitingQueue) -> list[str]:
    return [sequence.request_id for sequence in queue]


def _queue(clock: Clock | None = None, waiting: int = 4, tokens: int = 100) -> WaitingQueue:
    limits = SchedulerLimits(1, 1, waiting, max_num_waiting_tokens=tokens, max_waiting_time=10.0)
    return WaitingQueue(limits, clock or Clock())


def test_lower_priorities_come_first_then_earlier_arrivals() -> None:
    queue = _queue()
    for sequence in (_sequence("a", 1), _sequence("late", 2, priority=5), _sequence("b", 3)):
        queue.add(sequence)
    queue.add(_sequence("soon", 4, priority=-1))
    queue.put_back(_sequence("preempted", 0))
    assert _names(queue) == ["soon", "preempted", "a", "b", "late"]
    queue.check_integrity()


def test_a_full_queue_refuses_new_requests_but_no_preempted_ones() -> None:
    queue = _queue(waiting=1)
    queue.put_back(_sequence("preempted"))
    first = _sequence("first", 1)
    queue.add(first)
    with pytest.raises(QueueFull, match="max_num_waiting 1"):
        queue.add(_sequence("second", 2))
    queue.put_back(_sequence("preempted too"))
    queue.remove(first)
    queue.add(_sequence("second", 2))
    queue.check_integrity()


def test_prompt_tokens_are_bounded_but_one_request_always_fits() -> None:
    queue = _queue(tokens=10)
    long, short = _sequence("long", tokens=50), _sequence("short", 1, tokens=1)
    queue.add(long)
    with pytest.raises(QueueFull, match="max_num_waiting_tokens 10"):
        queue.add(short)
    queue.remove(long)
    queue.add(short)
    queue.add(_sequence("fits", 2, tokens=9))
    with pytest.raises(QueueFull, match="10 prompt tokens"):
        queue.add(_sequence("one more", 3))
    queue.check_integrity()


def _hint(queue: WaitingQueue) -> int:
    with pytest.raises(QueueFull) as caught:
        queue.add(_sequence("refused", 99))
    return caught.value.retry_after_s


def test_the_hint_is_when_half_the_queue_will_have_left() -> None:
    clock = Clock()
    queue = _queue(clock, waiting=4)
    for arrival in range(8):
        if len(queue) == 4:
            clock.now_s += 6.0
            queue.remove(next(iter(queue)))
        queue.add(_sequence(str(arrival), arrival))
    assert _hint(queue) == 12, "one left every 6 s, four wait"
    clock.now_s += 24.0
    assert _hint(queue) == 24, "nobody has left for a while: four in 48 s"
    clock.now_s += 1e6
    assert _hint(queue) == LONGEST_RETRY_S


def test_idle_times_do_not_count() -> None:
    clock = Clock()
    queue = _queue(clock, waiting=1)
    for arrival in range(3):
        clock.now_s += 1000.0
        sequence = _sequence(str(arrival), arrival)
        queue.add(sequence)
        clock.now_s += 1.0
        queue.remove(sequence)
    queue.add(_sequence("last", 4))
    assert _hint(queue) == 1


def test_who_waits_too_long_expires_but_no_preempted_one() -> None:
    clock = Clock()
    queue = _queue(clock)
    queue.put_back(_sequence("preempted"))
    queue.add(_sequence("old", 1))
    clock.now_s += 4.0
    queue.add(_sequence("new", 2))
    clock.now_s += 6.0
    assert queue.expired() == [], "ten seconds are allowed"
    clock.now_s += 0.5
    assert [sequence.request_id for sequence in queue.expired()] == ["old"]


def test_integrity_check_sees_disorder_and_wrong_counts() -> None:
    queue = _queue()
    queue.add(_sequence("a", 1))
    queue.add(_sequence("b", 2))
    queue._sequences.reverse()
    with pytest.raises(ValueError, match="out of order"):
        queue.check_integrity()
    queue._sequences.reverse()
    queue._sequences.pop()
    with pytest.raises(ValueError, match="2 requests"):
        queue.check_integrity()
