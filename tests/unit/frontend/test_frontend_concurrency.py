"""Slots over several processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ernie_frontend.middleware.concurrency import Slots, slots_file

_TAKE_TWO = """
import sys
from ernie_frontend.middleware.concurrency import Slots
slots = Slots(sys.argv[1], 3)
print(slots.acquire(), slots.acquire(), flush=True)
sys.stdin.read()
"""


def test_slots_run_out_and_come_back() -> None:
    slots = Slots(slots_file(), 2)
    taken = [slots.acquire(), slots.acquire()]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1]
    assert slots.acquire() is None
    slots.release(0)
    assert (slots.acquire(), slots.acquire()) == (0, None)
    slots.close()


def test_two_semaphores_in_one_file_do_not_know_each_other() -> None:
    path = slots_file()
    one, two = Slots(path, 2), Slots(path, 1, first=2)
    assert [one.acquire(), one.acquire(), one.acquire()] == [0, 1, None]
    assert [two.acquire(), two.acquire()] == [2, None]
    one.release(1)
    assert (two.acquire(), one.acquire()) == (None, 1)
    one.close()
    two.close()


@pytest.mark.parametrize("is_killed", [False, True])
def test_processes_share_the_slots_and_a_dead_one_has_none(is_killed: bool) -> None:
    path = slots_file()
    slots = Slots(path, 3)
    with subprocess.Popen(
        [sys.executable, "-c", _TAKE_TWO, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"0 1\n"
        assert (slots.acquire(), slots.acquire()) == (2, None)
        if is_killed:
            other.kill()
        else:
            other.communicate()
        other.wait(30)
        assert sorted([slots.acquire(), slots.acquire()], key=str) == [0, 1]
        assert slots.acquire() is None
    slots.close()
