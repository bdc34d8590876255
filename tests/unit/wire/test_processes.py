"""The figures of a process in /proc, the signals that end one, and exits in words."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ernie_wire.processes import Exit, ProcessStat, end_signals


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exited with status 0; its log says why"),
        (3, "exited with status 3; its log says why"),
        (-9, "was killed by SIGKILL, probably by the kernel because memory ran out (see dmesg)"),
        (-11, "was ended by SIGSEGV"),
        (-40, "was ended by signal 40"),
    ],
)
def test_exits_in_words(returncode: int, words: str) -> None:
    assert Exit.of(returncode) == (words, -returncode if returncode < 0 else None)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_an_ignored_one_asks_for_nothing(ignored: signal.Signals) -> None:
    all_of_them = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    assert set(end_signals()) == all_of_them
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        assert set(end_signals()) == all_of_them - {ignored}
    finally:
        signal.signal(ignored, before)


def test_a_process_is_read_as_the_kernel_has_it() -> None:
    stat = ProcessStat.read(os.getpid())
    assert stat[:2] == (os.getpid(), ProcessStat.read().name)
    assert (stat.state, stat.parent, stat.group) == ("R", os.getppid(), os.getpgrp())
    assert 0.0 < stat.start_s < time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_thread_is_read_by_its_own_name_and_its_work_shows() -> None:
    thread = f"self/task/{threading.get_native_id()}"
    comm = Path(f"/proc/{thread}/comm")
    name = comm.read_text()
    try:
        comm.write_text("a) Z (b")
        first = ProcessStat.read(thread)
        assert (first.name, first.state) == ("a) Z (b", "R")
        while sum(ProcessStat.read(thread).progress) == sum(first.progress):
            pass
    finally:
        comm.write_text(name)


def test_a_process_that_is_gone_is_an_oserror() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="No such"):
        ProcessStat.read(pid)
