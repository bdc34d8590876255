"""How ``serve`` recovers from faults: what has died or hangs is loaded or started again.

    a load of the model hangs              Triton's processes are killed, it is started, three times at most
    the model's stub is dead or silent     its processes are killed, the model is unloaded and loaded
    tritonserver ended or does not answer  its processes are killed, what it left is removed, it is started
    the frontend ended or does not answer  it is started; Triton and the engine are not involved

Clients get 503 with Retry-After meanwhile. Only a fault that keeps coming back ends ``serve``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import NoReturn

from ernie_cli.errors import CommandError
from ernie_cli.processes.child import Child
from ernie_cli.processes.supervisor import Supervisor, first_completed, while_running
from ernie_cli.serve.frontend import wait_until_ready, watch_answers
from ernie_cli.triton.loading import LoadHangs, load_model, watch_stub
from ernie_cli.triton.model_control import ModelDied, TritonModel
from ernie_cli.triton.run_directory import RunDirectory

MAX_FAULTS = 5
FAULTS_WINDOW_S = 600.0
_MAX_PAUSE_S = 8.0
MAX_LOADS = 3
_GRACE_AFTER_DEATH_S = 1.0

logger = logging.getLogger(__name__)


class RestartBackoff:
    """How long to wait before the next restart of one thing, and when to give up."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def pause_s(self, fault: CommandError, now_s: float) -> float:
        """Count a fault; return 0 for the first, then 1, 2, 4, 8 seconds.

        Raises:
            CommandError: it is one more than ``MAX_FAULTS`` within ``FAULTS_WINDOW_S``.
        """
        while self._times and now_s - self._times[0] > FAULTS_WINDOW_S:
            self._times.popleft()
        self._times.append(now_s)
        count = len(self._times)
        if count > MAX_FAULTS:
            within = f"{FAULTS_WINDOW_S / 60:g} minutes"
            message = f"given up after {count} faults within {within}, the last: {fault.message}"
            raise fault.with_message(message)
        return min(2.0 ** (count - 2), _MAX_PAUSE_S) if count > 1 else 0.0


class Recovery(ABC):
    """Watches something, and recovers it after each fault."""

    async def run(self) -> NoReturn:
        """Watch and recover until there are too many faults.

        Raises:
            CommandError: the last of them.
        """
        backoff = RestartBackoff()
        fault = await self._next_fault(None)
        while True:
            pause_s = backoff.pause_s(fault, time.monotonic())
            logger.warning("%s", fault.message)
            await asyncio.sleep(pause_s)
            fault = await self._next_fault(fault)

    async def _next_fault(self, fault: CommandError | None) -> CommandError:
        """Recover from a fault, if there is one; return the next, which may be that the recovery failed."""
        try:
            if fault is not None:
                await self.recover(fault)
            while True:
                await self.watch()
        except CommandError as following:
            return following

    @abstractmethod
    async def watch(self) -> None:
        """Wait for a fault, and raise it as a ``CommandError``."""

    @abstractmethod
    async def recover(self, fault: CommandError, /) -> None:
        """Recover from a fault; a ``CommandError`` is the next one."""


class TritonRecovery(Recovery):
    """Recovers a tritonserver and its model, which ``load`` loads for the first time, too."""

    def __init__(
        self, supervisor: Supervisor, directory: RunDirectory, model: TritonModel, child: Child
    ) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._model = model
        self._child = child

    async def load(self, attempts: int = MAX_LOADS) -> None:
        """Load the model; after a load that hangs again, in a new Triton.

        Raises:
            CommandError: it cannot be loaded, or every attempt hung.
        """
        try:
            await self._load()
        except LoadHangs as hang:
            if attempts == 1:
                raise hang.with_message(f"{hang.message}, {MAX_LOADS} times in a row") from None
            logger.warning("%s; tritonserver is restarted", hang.message)
            await self._restart_triton()
            await self.load(attempts - 1)

    async def _load(self) -> None:
        with self._directory.python_folder_found():
            await while_running([self._child], load_model(self._model, self._child))

    async def watch(self) -> None:
        """See ``Recovery``."""
        await while_running([self._child], first_completed(self._model.watch(), watch_stub(self._child)))

    async def recover(self, fault: CommandError, /) -> None:
        """See ``Recovery``."""
        if isinstance(fault, ModelDied):
            await while_running([self._child], self._unload())
            await self.load()
            logger.warning("the model is loaded again")
        else:
            await self._restart_triton()
            await self.load()
            logger.warning("tritonserver is restarted, and the model is loaded")

    async def _unload(self) -> None:
        self._child.kill_descendants()  # Triton would wait for a stub that hangs, and for its engine
        # Triton never gives up the requests that a dead stub had, and would wait for them when it ends.
        self._child.grace_s = _GRACE_AFTER_DEATH_S
        await self._model.unload()
        self._directory.remove_shared_memory()

    async def _restart_triton(self) -> None:
        self._child.kill()
        await self._child.stop()
        self._directory.remove_leftovers_of_triton()
        self._child = await self._supervisor.restart(self._child)
        await while_running([self._child], self._model.wait_until_live())


class FrontendRecovery(Recovery):
    """Recovers the frontend, whose base URL is ``url``."""

    def __init__(self, supervisor: Supervisor, child: Child, url: str) -> None:
        self._supervisor = supervisor
        self._child = child
        self._url = url

    async def watch(self) -> None:
        """See ``Recovery``."""
        await while_running([self._child], watch_answers(self._url))

    async def recover(self, _: CommandError, /) -> None:
        """See ``Recovery``."""
        self._child.kill()  # its workers
        await self._child.stop()
        self._child = await self._supervisor.restart(self._child)
        await while_running([self._child], wait_until_ready(self._url, must_be_healthy=False))
        logger.warning("the OpenAI frontend is restarted")


async def recover_all(*recoveries: Recovery) -> None:
    """Run several recoveries until one gives up; raises its ``CommandError``."""
    await first_completed(*(each.run() for each in recoveries))
