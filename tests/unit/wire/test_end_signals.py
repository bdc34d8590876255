"""Which signals ask a process to end."""

from __future__ import annotations

import signal

import pytest

from ernie_wire.end_signals import end_signals


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_an_ignored_one_asks_for_nothing(ignored: signal.Signals) -> None:
    all_of_them = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    assert set(end_signals()) == all_of_them
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        assert set(end_signals()) == all_of_them - {ignored}
    finally:
        signal.signal(ignored, before)
