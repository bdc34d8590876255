"""One child process: its output is passed on, and its last lines are kept; it is ended with its whole group.

A child is the leader of a session of its own: Ctrl-C at the terminal reaches only us, so the order in which
things end is ours, and whatever the child started can be ended with it. Must not know what a child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from ernie_cli.errors import CommandError
from ernie_cli.tied import tied_command
from ernie_frontend.log_output import LogOutput
from ernie_wire.exit_status import describe_exit

_TAIL_BYTES = 16384
_LAST_LINES = 40
_POLL_S = 0.05


class Child:
    """A running child process. Make it with ``start``."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, grace_s: float | None, output: LogOutput
    ) -> None:
        self.name = name
        self._process = process
        self._grace_s = grace_s
        self._output = output
        self._tail = b""
        self._pump = asyncio.create_task(self._pass_on())

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        grace_s: float | None,
        output: LogOutput,
    ) -> Child:
        """Start ``command``; it gets SIGTERM if this process dies. What it writes goes to ``output``."""
        process = await asyncio.create_subprocess_exec(
            *tied_command(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        return cls(name, process, grace_s, output)

    @property
    def pid(self) -> int:
        """Process id, and the id of its group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return self._process.returncode

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped the process."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        except OSError:  # it has ended
            return False

    async def ended(self) -> CommandError:
        """Wait until the process ends by itself; return what to tell the user."""
        status = await self._process.wait()
        await asyncio.wait({self._pump}, timeout=1)  # a grandchild may hold the pipe open
        return CommandError(f"{self.name} ended: it {describe_exit(status)}", self.last_lines())

    def last_lines(self) -> tuple[str, ...]:
        """Return what it wrote last."""
        return tuple(self._tail.decode(errors="replace").splitlines()[-_LAST_LINES:])

    async def stop(self) -> None:
        """End the process and its group: SIGTERM, and SIGKILL to what is left after the grace."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._group_is_empty(), self._grace_s)
        self.kill()
        await self._process.wait()
        await asyncio.wait({self._pump}, timeout=1)
        self._pump.cancel()

    def kill(self) -> None:
        """Kill whatever is left of the process's group, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _group_is_empty(self) -> None:
        """Wait for the process, then for what it started; these are not our children, so they are polled."""
        await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.killpg(self.pid, 0)
                await asyncio.sleep(_POLL_S)

    async def _pass_on(self) -> None:
        """Copy what the process writes, as it comes."""
        written = self._process.stdout
        while written is not None and (data := await written.read(65536)):
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            self._output.write(data)
