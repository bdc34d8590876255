"""What ``serve`` does about faults: what is dead or hangs is loaded or started again.

    a load of the model hangs              Triton's processes are killed, it is started, three times at most
    the model's stub is dead or silent     its processes are killed, the model is unloaded and loaded
    tritonserver ended or does not answer  its processes are killed, what it left is removed, it is started
    the frontend ended or does not answer  it is started; Triton and the engine know nothing of it

Clients get 503 with Retry-After meanwhile. Only a fault that comes back again and again ends ``serve``. This
module must not know how a command line is made.
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
from ernie_cli.processes.supervisor import Supervisor, while_running
from ernie_cli.serve.frontend import wait_until_answering, watch_answers
from ernie_cli.serve.run_directory import RunDirectory
from ernie_cli.triton.loading import LoadHangs, first_of, load_model, watch_stub
from ernie_cli.triton.model_control import ModelDied, TritonModel

MOST_FAULTS = 5
FAULTS_WINDOW_S = 600.0
_LONGEST_PAUSE_S = 8.0
MOST_LOADS = 3
_GRACE_AFTER_DEATH_S = 1.0

logger = logging.getLogger(__name__)


class Faults:
    """The faults of one thing lately: how long to wait before it is mended, and when to give up."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def pause_s(self, fault: CommandError, now_s: float) -> float:
        """Take note of a fault; return 0 for the first, then 1, 2, 4, 8 seconds.

        Raises:
            CommandError: it is one more than ``MOST_FAULTS`` within ``FAULTS_WINDOW_S``.
        """
        while self._times and now_s - self._times[0] > FAULTS_WINDOW_S:
            self._times.popleft()
        self._times.append(now_s)
        count = len(self._times)
        if count > MOST_FAULTS:
            within = f"{FAULTS_WINDOW_S / 60:g} minutes"
            message = f"given up after {count} faults within {within}, the last: {fault.message}"
            raise fault.saying(message)
        return min(2.0 ** (count - 2), _LONGEST_PAUSE_S) if count > 1 else 0.0


class Kept(ABC):
    """Something that is watched, and mended after each fault."""

    async def keep(self) -> NoReturn:
        """Watch and mend.

        Raises:
            CommandError: there were too many faults.
        """
        faults = Faults()
        fault = await self._fault_of(None)
        while True:
            pause_s = faults.pause_s(fault, time.monotonic())
            logger.warning("%s", fault.message)
            await asyncio.sleep(pause_s)
            fault = await self._fault_of(fault)

    async def _fault_of(self, fault: CommandError | None) -> CommandError:
        """Mend a fault, if there is one; return the next."""
        try:
            if fault is not None:
                await self.mend(fault)
            while True:
                await self.watch()
        except CommandError as following:
            return following

    @abstractmethod
    async def watch(self) -> None:
        """Wait for a fault, and raise it: a ``CommandError``."""

    @abstractmethod
    async def mend(self, fault: CommandError, /) -> None:
        """Mend a fault; raises what keeps it from that, which is the next fault."""


class KeptTriton(Kept):
    """A tritonserver and its model, which is still to be loaded."""

    def __init__(
        self, supervisor: Supervisor, directory: RunDirectory, model: TritonModel, child: Child
    ) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._model = model
        self._child = child

    async def load(self, attempts: int = MOST_LOADS) -> None:
        """Load the model; after a load that hangs again, in a new Triton.

        Raises:
            CommandError: it cannot be loaded, or every attempt hung.
        """
        try:
            await self._load()
        except LoadHangs as hang:
            if attempts == 1:
                raise hang.saying(f"{hang.message}, {MOST_LOADS} times in a row") from None
            logger.warning("%s; tritonserver is started again", hang.message)
            await self._start_triton_again()
            await self.load(attempts - 1)

    async def _load(self) -> None:
        with self._directory.python_folder_found():
            await while_running([self._child], load_model(self._model, self._child))

    async def watch(self) -> None:
        """See ``Kept``."""
        await while_running([self._child], first_of(self._model.watch(), watch_stub(self._child)))

    async def mend(self, fault: CommandError, /) -> None:
        """See ``Kept``."""
        if isinstance(fault, ModelDied):
            await while_running([self._child], self._unload())
            await self.load()
            logger.warning("the model is loaded again")
        else:
            await self._start_triton_again()
            await self.load()
            logger.warning("tritonserver is started again, and the model is loaded")

    async def _unload(self) -> None:
        self._child.kill_descendants()  # Triton would wait for a stub that hangs, and for its engine
        # It never gives up the requests that a dead stub had, and would wait for them at its end.
        self._child.grace_s = _GRACE_AFTER_DEATH_S
        await self._model.unload()
        self._directory.remove_shared_memory()

    async def _start_triton_again(self) -> None:
        self._child.kill()
        await self._child.stop()
        self._directory.remove_leftovers_of_triton()
        self._child = await self._supervisor.start_again(self._child)
        await while_running([self._child], self._model.wait_until_live())


class KeptFrontend(Kept):
    """The frontend.

    Args:
        supervisor: of its process.
        child: its process.
        url: where it answers.
    """

    def __init__(self, supervisor: Supervisor, child: Child, url: str) -> None:
        self._supervisor = supervisor
        self._child = child
        self._url = url

    async def watch(self) -> None:
        """See ``Kept``."""
        await while_running([self._child], watch_answers(self._url))

    async def mend(self, _: CommandError, /) -> None:
        """See ``Kept``."""
        self._child.kill()  # its workers
        await self._child.stop()
        self._child = await self._supervisor.start_again(self._child)
        await while_running([self._child], wait_until_answering(self._url))
        logger.warning("the OpenAI frontend is started again")


async def keep_all(*kept: Kept) -> None:
    """Keep several things, until one is given up; raises its ``CommandError``."""
    await first_of(*(each.keep() for each in kept))
