"""A load of the model into a running tritonserver: waited for, and given up when it can no longer end.

A load takes as long as the weights take, so it has no deadline; nor has Triton 2.51 one for a stub that is
dead or hangs. So the stub is looked at from outside (``_sight``), and what counts is that nothing changes. Only
the end of that Triton ends such a load (``recovery.py``). This module must not know how Triton is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ernie_cli.errors import CommandError
from ernie_cli.processes.child import MAX_SCAN_AGE_S, SCAN_INTERVAL_S, Child
from ernie_cli.processes.supervisor import first_completed
from ernie_cli.triton.model_control import EngineDied, ModelDied, TritonModel
from ernie_stub.engine_process import ready_notice
from ernie_wire.processes import ProcessStat

_STUB = "triton_python_backend_stub"
_WITHOUT_STUB_S = 5.0  # Triton starts one in less than a second, if it is given a processor
_STALL_S = 15.0  # a thread that can run does so every second, with twenty others on each core too


class LoadHangs(CommandError):
    """A load that will not end; no other one does in the same Triton."""


@dataclass(frozen=True)
class _Sight:
    """What is seen of a load at one moment.

    Attributes:
        fault: what is wrong if nothing changes.
        limit_s: for how long.
        figures: which change while there is progress.
    """

    fault: str
    limit_s: float
    figures: tuple[str, ...] = ()


async def load_model(model: TritonModel, triton: Child) -> None:
    """Load the model; if the engine died without a word of its own, its last lines go with the error.

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
    """Look for the stub of a loaded model.

    Raises:
        ModelDied: there is none.
    """
    is_there = True
    while is_there:
        await asyncio.sleep(SCAN_INTERVAL_S)  # a look shared with others may be older than the stub
        is_there = _stub(triton.group(MAX_SCAN_AGE_S)) is not None
    raise ModelDied("the stub of the model has ended", triton.last_lines())


async def _watch_load(triton: Child) -> NoReturn:
    seen: _Sight | None = None
    num_looks = 0  # not the time: this process may have slept longer than it meant to
    while seen is None or num_looks * SCAN_INTERVAL_S < seen.limit_s:
        await asyncio.sleep(SCAN_INTERVAL_S)
        last, seen = seen, _sight(triton)
        num_looks = num_looks + 1 if seen == last else 0
    raise LoadHangs(f"the load of the model hangs: {seen.fault} for {seen.limit_s:g} s", triton.last_lines())


def _sight(triton: Child) -> _Sight:
    members = triton.group(MAX_SCAN_AGE_S)
    stub = _stub(members)
    if stub is None:
        return _Sight("there has been no stub", _WITHOUT_STUB_S)
    process = Path(f"/proc/{stub.pid}")
    engine = next((member for member in members if member.parent == stub.pid), None)
    if engine is None:
        # Triton's own thread in it runs all the time; what starts the engine is the main thread.
        return _Sight("its stub has not run, nor started an engine", _STALL_S, _times_run(process))
    if any(ready_notice(engine.pid) in line for line in triton.last_lines()):
        return _Sight("its engine is ready, and Triton has not taken note of it", _STALL_S)
    # What the engine does is watched by the stub: it has another limit for that.
    return _Sight("its stub has not run", _STALL_S, _times_run(*process.glob("task/*")))


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
