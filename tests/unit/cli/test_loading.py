"""A load that can no longer end is given up; one that only takes long is not."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from ernie_cli.processes.child import Child, ChildCommand
from ernie_cli.triton import loading
from ernie_cli.triton.loading import LoadHangs, load_model
from ernie_cli.triton.model_control import TritonModel
from ernie_frontend.log_output import standard_error
from ernie_stub.engine_process import ready_notice

DEADLINE_S = 60.0
SCAN_INTERVAL_S, LIMIT_S = 0.25, 1.5
TRITON = """
import signal, subprocess, sys
if sys.argv[1:]:
    subprocess.Popen(sys.argv[1:])
signal.pause()
"""
WITH_ENGINE = """
import subprocess, sys, time
engine = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(sys.argv[1].replace("PID", str(engine.pid)), flush=True)
while True:
    time.sleep(0.05)
"""


class WaitsForEver:
    """A Triton that waits for its stub, whatever became of it."""

    async def load(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SCAN_INTERVAL_S", SCAN_INTERVAL_S)
    for name in ("_WITHOUT_STUB_S", "_STALL_S"):
        monkeypatch.setattr(loading, name, LIMIT_S)


@pytest.fixture
def stub(tmp_path: Path) -> list[str]:
    """Return how a process is started that has the name of Triton's stub."""
    name = tmp_path / "triton_python_backend_stub"
    shutil.copy(Path(sys.executable).resolve(), name)
    return [str(name), "-c"]


async def load(stub: list[str], deadline_s: float = DEADLINE_S) -> None:
    """Load with a Triton that has a stub of that command; without one if it is empty."""
    triton = [sys.executable, "-c", TRITON, *stub]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    origin = ChildCommand("tritonserver", triton, environment, grace_s=0.2, stopped_s=DEADLINE_S)
    child = await Child.start(origin, standard_error())
    try:
        while stub and not any(loading._STUB.startswith(each.name) for each in child.group()):
            await asyncio.sleep(0.01)  # how long a process takes to start is not what is tested
        loaded = load_model(cast("TritonModel", cast("Any", WaitsForEver())), child)
        await asyncio.wait_for(loaded, deadline_s)
    finally:
        await child.stop()


async def test_without_a_stub_it_ends() -> None:
    with pytest.raises(LoadHangs, match=r"stub .*1\.5 s"):
        await load([])


async def test_with_a_stub_whose_main_thread_waits_it_ends(stub: list[str]) -> None:
    """As with Triton's stub, another thread of it lives on."""
    beats = "import threading, time, signal\ndef beat():\n    while True: time.sleep(0.1)\n"
    begun = "threading.Thread(target=beat, daemon=True).start()\nsignal.pause()"
    with pytest.raises(LoadHangs, match="engine"):
        await load([*stub, beats + begun])


async def test_a_stub_that_works_for_long_is_left_alone(stub: list[str]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await load([*stub, "import time\nwhile True: time.sleep(0.05)"], 2 * LIMIT_S)


async def test_an_engine_that_loads_for_long_is_left_alone(stub: list[str]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await load([*stub, WITH_ENGINE, "engine process PID loads"], 2 * LIMIT_S)


async def test_a_triton_that_does_not_see_that_the_engine_is_ready_is_given_up(stub: list[str]) -> None:
    notice = ready_notice(4321).replace("4321", "PID")
    with pytest.raises(LoadHangs, match="engine is ready"):
        await load([*stub, WITH_ENGINE, notice])


async def test_a_frozen_stub_with_an_engine_ends_it(stub: list[str]) -> None:
    frozen = WITH_ENGINE.replace("while", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)\nwhile")
    with pytest.raises(LoadHangs, match=r"stub .*1\.5 s"):
        await load([*stub, frozen, "engine process PID loads"])
