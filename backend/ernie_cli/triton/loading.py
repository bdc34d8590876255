"""A load of the model into a running tritonserver: awaited, and given up when it can no longer end.

A load takes as long as the weights take, so it has no deadline; nor has Triton 2.51 one for a stub that is dead
or hangs. So the stub is watched from outside (``_observe``), and a load has failed if nothing changes for a
while. Such a load ends only with its Triton (``serve/recovery.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ernie_cli.errors import CommandError
from ernie_cli.processes.child import SCAN_INTERVAL_S, Child
from ernie_cli.processes.supervisor import first_completed
from ernie_cli.triton.model_control import EngineDied, ModelDied, TritonModel
from ernie_stub.engine_process import ready_notice
from ernie_wire.processes import ProcessStat

_STUB = "triton_python_backend_stub"
_WITHOUT_STUB_S = 5.0  # Triton starts one in less than a second, if it gets a processor
_STALL_S = 15.0  # a thread that can run does so every second, even with twenty others on each core


class LoadHangs(CommandError):
    """A load that will not end; another load in the same Triton would not end either."""


@dataclass(frozen=True)
class _Observation:
    """The state of a load at one moment, seen from outside.

    Attributes:
        fault: what is wrong if this state lasts.
        limit_s: how long it may last.
        run_times: of the stub's threads; they change while there is progress.
    """

    fault: str
    limit_s: float
    run_times: tuple[str, ...] = ()


async def load_model(model: TritonModel, triton: Child) -> None:
    """Load the model; an error of an engine that died silently gets the last lines of its log.

    Raises:
        LoadHangs: the stub is dead, frozen or hangs, or Triton does.
        CommandError: the model cannot be loaded.
    """
    try:
        await first_completed(model.load(), _watch_load(triton))
    except EngineDied as error:
        error.last_lines = triton.last_lines()
        raise


async def watch_stub(triton: Child) -> NoReturn:
    """Watch the stub of a loaded model.

    Raises:
        ModelDied: it has ended.
    """
    is_alive = True
    while is_alive:
        await asyncio.sleep(SCAN_INTERVAL_S)
        is_alive = _stub(triton.group()) is not None
    raise ModelDied("the stub of the model has ended", triton.last_lines())


async def _watch_load(triton: Child) -> NoReturn:
    seen: _Observation | None = None
    num_alike = 0  # observations, not seconds: this process may sleep longer than it meant to
    while seen is None or num_alike * SCAN_INTERVAL_S < seen.limit_s:
        await asyncio.sleep(SCAN_INTERVAL_S)
        last, seen = seen, _observe(triton)
        num_alike = num_alike + 1 if seen == last else 0
    raise LoadHangs(f"the load of the model hangs: {seen.fault} for {seen.limit_s:g} s", triton.last_lines())


def _observe(triton: Child) -> _Observation:
    members = triton.group()
    stub = _stub(members)
    if stub is None:
        return _Observation("there has been no stub", _WITHOUT_STUB_S)
    process = Path(f"/proc/{stub.pid}")
    engine = next((member for member in members if member.parent == stub.pid), None)
    if engine is None:
        # Triton's own thread in the stub runs all the time; the main thread starts the engine.
        return _Observation("its stub has not run, nor started an engine", _STALL_S, _times_run(process))
    if any(ready_notice(engine.pid) in line for line in triton.last_lines()):
        return _Observation("its engine is ready, and Triton has not noticed", _STALL_S)
    # The stub watches what the engine does, with a limit of its own.
    return _Observation("its stub has not run", _STALL_S, _times_run(*process.glob("task/*")))


def _stub(members: Sequence[ProcessStat]) -> ProcessStat | None:
    return next((each for each in members if _STUB.startswith(each.name) and each.state != "Z"), None)


def _times_run(*tasks: Path) -> tuple[str, ...]:
    """Return the times that threads have run, waited and been given a processor (proc_pid_schedstat(5))."""
    return tuple(_text(task / "schedstat") for task in tasks)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""
