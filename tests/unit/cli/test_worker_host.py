"""The ranks of another machine: whatever ends one, there is a new one, and the cause is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ernie_backend.parallel.layout import Layout
from ernie_cli.errors import CommandError
from ernie_cli.serve import worker_host

DEADLINE_S = 60.0
RANK = """
import os, pathlib, signal, sys
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
signal.pause()
"""


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which every rank process leaves its id."""
    monkeypatch.setattr(worker_host, "rank_command", lambda _: [sys.executable, "-c", RANK, str(tmp_path)])
    monkeypatch.setattr(worker_host, "_PAUSE_S", 0.0)
    monkeypatch.setattr(worker_host, "_STOPPED_S", 1.0)
    return tmp_path


@contextlib.asynccontextmanager
async def hosting() -> AsyncIterator[None]:
    layout = Layout(2, ("127.0.0.1", "127.0.0.2"), 1, 8002)
    task = asyncio.create_task(worker_host.keep_ranks(layout, {}))
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def started(pids: Path, count: int) -> set[int]:
    """Wait until so many ranks have been started."""
    until = asyncio.get_running_loop().time() + DEADLINE_S
    while len(found := {int(path.name) for path in pids.iterdir()}) < count:
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.01)
    return found


async def test_a_killed_rank_is_replaced_and_the_cause_told(
    pids: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with hosting():
        (first,) = await started(pids, 1)
        os.kill(first, signal.SIGKILL)
        await started(pids, 2)
    assert "SIGKILL" in capfd.readouterr().err


async def test_a_stopped_rank_is_killed_and_replaced(pids: Path) -> None:
    async with hosting():
        (first,) = await started(pids, 1)
        os.kill(first, signal.SIGSTOP)
        await started(pids, 2)
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


async def test_a_rank_that_cannot_start_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    complains = [sys.executable, "-c", "print('no model'); raise SystemExit(1)"]
    monkeypatch.setattr(worker_host, "rank_command", lambda _: complains)
    with pytest.raises(CommandError, match="rank process 0") as raised:
        await worker_host.keep_ranks(Layout(2, ("127.0.0.1", "127.0.0.2"), 1, 8002), {})
    assert raised.value.last_lines == ("no model",)
