"""When a fault is mended, and when it is given up."""

from __future__ import annotations

import asyncio

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.serve import recovery
from ernie_cli.serve.recovery import FAULTS_WINDOW_S, MAX_FAULTS, Recovery, RestartBackoff, recover_all

FAULT = CommandError("it died", ("a line",))


def test_the_first_fault_is_mended_at_once_and_the_last_told() -> None:
    backoff = RestartBackoff()
    assert [backoff.pause_s(FAULT, float(second)) for second in range(MAX_FAULTS)] == [0, 1, 2, 4, 8]
    with pytest.raises(CommandError, match=r"6 faults .*it died") as end:
        backoff.pause_s(FAULT, float(MAX_FAULTS))
    assert end.value.last_lines == ("a line",)


def test_old_faults_are_forgotten() -> None:
    backoff = RestartBackoff()
    for number in range(3 * MAX_FAULTS):
        assert backoff.pause_s(FAULT, number * (FAULTS_WINDOW_S + 1)) == 0


class Brittle(Recovery):
    """Dies at once, and cannot be mended the first time."""

    def __init__(self) -> None:
        self.mended: list[str] = []

    async def watch(self) -> None:
        raise CommandError("died")

    async def recover(self, fault: CommandError, /) -> None:
        self.mended.append(fault.message)
        if len(self.mended) == 1:
            raise CommandError("not mended")


async def test_what_keeps_from_mending_is_the_next_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_MAX_PAUSE_S", 0.0)
    brittle = Brittle()
    with pytest.raises(CommandError, match="given up"):
        await brittle.run()
    assert brittle.mended == ["died", "not mended", "died", "died", "died"]


class Stopped(Recovery):
    """Ends when it is told to, which is a fault as long as it is kept."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()

    async def watch(self) -> None:
        await self.stop.wait()
        raise CommandError("it ended")

    async def recover(self, fault: CommandError, /) -> None:
        raise AssertionError(fault.message)


async def test_what_is_stopped_since_another_was_given_up_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "_MAX_PAUSE_S", 0.0)
    stopped = Stopped()
    with pytest.raises(CommandError, match="given up"):
        await recover_all(Brittle(), stopped)
    stopped.stop.set()
    await asyncio.sleep(0.01)
    assert "it ended" not in caplog.text
