"""Programs that the comparison starts, each with all the processes that it starts in turn.

An engine that waits may still spin on a core (a worker of vLLM does), so a program is stopped while others are
measured. None outlives the comparison unless that is killed by SIGKILL: the programs then die with it, but
what they started may stay, stopped.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ernie_wire.processes import ProcessStat, die_with_parent

STOP_S = 30.0
_running: set[Family] = set()


class Family:
    """A program and its descendants, in sessions of their own: a Ctrl-C at the terminal does not reach them.

    What is in the program's process group belongs to it even when the program has ended.

    Args:
        command: its command line.
        options: of ``subprocess.Popen``.

    Attributes:
        program: what was started.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:  # noqa: ANN401
        self.program: subprocess.Popen[str] = subprocess.Popen(
            command, start_new_session=True, text=True, preexec_fn=_end_with_us, **options
        )
        _running.add(self)

    def pause(self) -> None:
        """Stop all its processes."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def resident_bytes(self) -> int:
        """Return the memory of all its processes, what they share counted once."""
        return sum(_proportional_bytes(stat.pid) for stat in self._members())

    def end(self) -> None:
        """End it: it has ``STOP_S`` to end by itself, then what is left is killed."""
        self.resume()
        members = self._members()
        self.program.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.program.wait(STOP_S)
        for member in members:
            now = _stat(member.pid)
            if now is not None and now.start_s == member.start_s:
                _send(member.pid, signal.SIGKILL)
        self.program.wait()
        _running.discard(self)

    def _signal(self, number: signal.Signals) -> None:
        for member in self._members():
            _send(member.pid, number)

    def _members(self) -> list[ProcessStat]:
        """Return the processes of its group and their descendants."""
        stats = [stat for stat in map(_stat, _process_ids()) if stat is not None]
        members = [stat for stat in stats if stat.group == self.program.pid]
        for parent in members:
            members.extend(stat for stat in stats if stat.parent == parent.pid and stat not in members)
        return members


def end_all() -> None:
    """End what is still running."""
    while _running:
        _running.pop().end()


def _end_with_us() -> None:
    die_with_parent(signal.SIGKILL)


def _process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(process_id: int) -> ProcessStat | None:
    try:
        return ProcessStat.read(process_id)
    except OSError:
        return None


def _send(process_id: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process_id, number)


def _proportional_bytes(process_id: int) -> int:
    try:
        text = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB", text, re.M)
    return 1024 * int(found[1]) if found else 0
