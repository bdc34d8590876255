"""Owns the children and the signals of one command: however the command ends, all its children end with it.

Children are stopped in the reverse order of their start. The first SIGTERM, SIGINT or SIGHUP asks for an
orderly end, the second one kills. A restarted child keeps its place in that order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from ernie_cli.processes.child import Child, ChildCommand
from ernie_frontend.log_output import LogOutput, standard_error
from ernie_wire.processes import end_signals

Result = TypeVar("Result")

STOP_GRACE_S = 20.0
_DEATH_NOTICE_S = 1.0  # how much later than its sockets a dead child is seen


class StopRequested(Exception):
    """A signal asked the command to end, which is not an error."""


class Supervisor:
    """The children of a command, as an async context manager.

    Args:
        output: where their output goes; None is standard error.

    Attributes:
        stop_notice: printed at the first signal: what the command waits for.
    """

    def __init__(self, output: LogOutput | None = None) -> None:
        self._output = standard_error() if output is None else output
        self._children: list[Child] = []
        self._stop = asyncio.Event()
        self.stop_notice = "Stopping: what has been started is ended; a second Ctrl-C or signal ends at once."

    async def __aenter__(self) -> Supervisor:
        self._signals = end_signals()
        for number in self._signals:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            await child.stop()
        await asyncio.to_thread(self._output.drain)
        for number in self._signals:
            asyncio.get_running_loop().remove_signal_handler(number)

    async def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        grace_s: float | None = STOP_GRACE_S,
    ) -> Child:
        """Start a child; the arguments are those of ``ChildCommand``."""
        return await self._start(ChildCommand(name, command, environment, grace_s), len(self._children))

    async def restart(self, child: Child) -> Child:
        """Restart a child that was stopped (``Child.stop``); the new one takes its place."""
        place = self._children.index(child)
        del self._children[place]
        return await self._start(child.origin, place)

    async def _start(self, origin: ChildCommand, place: int) -> Child:
        starting = asyncio.create_task(Child.start(origin, self._output))
        try:
            return await asyncio.shield(starting)
        finally:  # also when this is cancelled: a child that has been started must be ended later
            self._children.insert(place, await starting)

    async def run(self, work: Coroutine[Any, Any, Result], *, children_may_end: bool = False) -> Result:
        """Return what ``work`` returns, unless something ends first.

        Args:
            work: awaited.
            children_may_end: ``work`` itself handles the end of a child.

        Raises:
            StopRequested: a signal came.
            CommandError: a child ended; what ``work`` then raised is a consequence.
        """
        stop = asyncio.create_task(self._stop.wait())
        task = asyncio.create_task(while_running([] if children_may_end else self._children, work))
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise StopRequested
            return await task
        finally:
            await _cancel(task, stop)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in self._children:
                child.kill()
        else:
            standard_error().write(f"{self.stop_notice}\n")
        self._stop.set()


async def while_running(children: Sequence[Child], work: Coroutine[Any, Any, Result]) -> Result:
    """Return what ``work`` returns, unless one of the children ends first.

    Raises:
        CommandError: a child ended; what ``work`` then raised is a consequence.
    """
    task = asyncio.ensure_future(work)
    deaths = [asyncio.create_task(child.ended()) for child in children]
    try:
        await asyncio.wait({task, *deaths}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled() and task.exception() is not None and deaths:
            await asyncio.wait(deaths, timeout=_DEATH_NOTICE_S, return_when=asyncio.FIRST_COMPLETED)
        for death in deaths:
            if death.done():
                raise death.result()
        return await task
    finally:
        await _cancel(task, *deaths)


async def first_completed(*works: Coroutine[Any, Any, None]) -> None:
    """Wait until the first of several works ends, with what it raises, and cancel the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await done.pop()
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
