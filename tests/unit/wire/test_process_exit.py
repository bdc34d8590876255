"""The signals that ask a process to end, and exits in words."""

from __future__ import annotations

import signal

import pytest

from ernie_wire.process_exit import Exit, end_signals


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
