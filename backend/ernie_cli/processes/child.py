"""One child process: its output is passed on, and its last lines are kept; it is ended with its whole group.

A child is the leader of a session of its own. So Ctrl-C at the terminal reaches this process alone, which
decides in which order things end, and whatever the child started can be ended with it. Only a stray SIGSTOP can
stop a process of such a session, and everything that waits for it would hang: a process that stays stopped is
killed, unless a debugger holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ernie_cli.errors import CommandError
from ernie_cli.processes.child_launcher import launcher_command
from ernie_frontend.log_output import LogOutput
from ernie_wire.processes import Exit, ProcessStat

MAX_STOPPED_S = 3.0
"""How long a process may stay stopped; short, since no load on the machine stops one."""
SCAN_INTERVAL_S = 1.0
_TAIL_BYTES = 16384
_LAST_LINES = 40
_POLL_S = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChildCommand:
    """How a child is started and ended.

    Attributes:
        name: its name in messages.
        command: program and arguments.
        environment: its whole environment.
        grace_s: seconds between SIGTERM and SIGKILL; None: no limit.
        stopped_s: how long a process of its group may stay stopped before it is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    grace_s: float | None
    stopped_s: float = MAX_STOPPED_S


class Child:
    """A running child process, made by ``start``; ``grace_s`` (see ``ChildCommand``) may be changed."""

    def __init__(self, origin: ChildCommand, process: asyncio.subprocess.Process, output: LogOutput) -> None:
        self.origin = origin
        self.name = origin.name
        self.grace_s = origin.grace_s
        self._process = process
        self._output = output
        self._tail = b""
        self._was_stopped = False
        self._pump = asyncio.create_task(self._copy_output())
        self._guard = asyncio.create_task(self._kill_what_stays_stopped())

    @classmethod
    async def start(cls, origin: ChildCommand, output: LogOutput) -> Child:
        """Start a command; it gets SIGTERM if this process dies. What it writes goes to ``output``."""
        process = await asyncio.create_subprocess_exec(
            *launcher_command(origin.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(origin.environment),
            start_new_session=True,
        )
        return cls(origin, process, output)

    @property
    def pid(self) -> int:
        """Process id, and the id of its group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return self._process.returncode

    def group(self) -> list[ProcessStat]:
        """Return the processes of its group, itself included."""
        members = list[ProcessStat]()
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):  # it has ended
                    # To read the status of every process of the machine would take 50 times as long.
                    if os.getpgid(int(entry.name)) == self.pid:
                        members.append(ProcessStat.read(entry.name))
        return members

    async def ended(self) -> CommandError:
        """Wait until the process ends by itself; return the error that says how."""
        status = await self._process.wait()
        await asyncio.wait({self._pump}, timeout=1)  # a grandchild may hold the pipe open
        end = Exit("was stopped, and so killed") if self._was_stopped else Exit.of(status)
        return CommandError(f"{self.name} ended: it {end.words}", self.last_lines(), end.signal)

    def last_lines(self) -> tuple[str, ...]:
        """Return what it wrote last."""
        return tuple(self._tail.decode(errors="replace").splitlines()[-_LAST_LINES:])

    async def stop(self) -> None:
        """End the process and its group: SIGTERM, then SIGKILL to what is left after ``grace_s``."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._group_is_empty(), self.grace_s)
        self.kill()
        self._guard.cancel()
        await self._process.wait()
        await asyncio.wait({self._pump}, timeout=1)
        self._pump.cancel()

    def kill(self) -> None:
        """Send SIGKILL to what is left of the group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill_descendants(self) -> None:
        """Send SIGKILL to the group without the process itself."""
        for member in self.group():
            if member.pid != self.pid:
                _kill(member.pid)

    async def _kill_what_stays_stopped(self) -> None:
        scans_stopped: dict[int, int] = {}
        while True:
            await asyncio.sleep(SCAN_INTERVAL_S)
            stopped = [member for member in self.group() if member.state == "T"]
            scans_stopped = {member.pid: scans_stopped.get(member.pid, 0) + 1 for member in stopped}
            for member in stopped:
                if scans_stopped[member.pid] * SCAN_INTERVAL_S >= self.origin.stopped_s:
                    logger.warning(
                        "%s: process %d (%s) was stopped: it is killed", self.name, member.pid, member.name
                    )
                    self._was_stopped |= member.pid == self.pid
                    _kill(member.pid)

    async def _group_is_empty(self) -> None:
        """Wait for the process, then for its group: those are not our children, so they are polled."""
        await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.killpg(self.pid, 0)
                await asyncio.sleep(_POLL_S)

    async def _copy_output(self) -> None:
        """Copy the process's output as it comes."""
        stream = self._process.stdout
        while stream is not None and (data := await stream.read(65536)):
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            self._output.write(data)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
