"""What ``serve`` does about faults: what is dead or hangs is loaded or started again.

    the model's stub is dead or silent     its processes are killed, the model is unloaded and loaded
    tritonserver ended or does not answer  its processes are killed, what it left is removed, it is started
    the frontend ended                     it is started; Triton and the engine know nothing of it

Clients get 503 with Retry-After meanwhile. Only a fault that comes back again and again ends ``serve``. This
module must not know how a command line is made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from typing import Any, NoReturn

from ernie_cli.child import Child
from ernie_cli.errors import CommandError
from ernie_cli.run_directory import RunDirectory
from ernie_cli.supervisor import Supervisor, while_running
from ernie_cli.triton import ModelDied, TritonModel

MOST_FAULTS = 5
FAULTS_WINDOW_S = 600.0
_LONGEST_PAUSE_S = 8.0
_STUB = "triton_python_backend_stub"
_LOOK_S = 1.0
_LOADING_WITHOUT_STUB_S = 10.0  # Triton starts one in less than a second, if it is given a processor

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
            raise CommandError(message, fault.last_lines)
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
    """A tritonserver and its model."""

    def __init__(
        self, supervisor: Supervisor, directory: RunDirectory, model: TritonModel, child: Child
    ) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._model = model
        self._child = child

    async def watch(self) -> None:
        """See ``Kept``."""
        await while_running([self._child], _first(self._model.watch(), _watch_stub(self._child, _LOOK_S)))

    async def mend(self, fault: CommandError, /) -> None:
        """See ``Kept``."""
        if isinstance(fault, ModelDied):
            await while_running([self._child], self._load_again())
        else:
            await self._start_again()

    async def _load_again(self) -> None:
        self._child.kill_descendants()  # Triton would wait for a stub that hangs, and for its engine
        await self._model.unload()
        self._directory.remove_shared_memory()
        await load_model(self._model, self._child)
        logger.warning("the model is loaded again")

    async def _start_again(self) -> None:
        self._child.kill()
        await self._child.stop()
        self._directory.remove_leftovers_of_triton()
        self._child = await self._supervisor.start_again(self._child)
        await while_running([self._child], self._model.wait_until_live())
        with self._directory.python_folder_found():
            await while_running([self._child], load_model(self._model, self._child))
        logger.warning("tritonserver is started again, and the model is loaded")


class KeptFrontend(Kept):
    """The frontend."""

    def __init__(self, supervisor: Supervisor, child: Child) -> None:
        self._supervisor = supervisor
        self._child = child

    async def watch(self) -> None:
        """See ``Kept``."""
        raise await self._child.ended()

    async def mend(self, _: CommandError, /) -> None:
        """See ``Kept``."""
        self._child.kill()  # its workers
        await self._child.stop()
        self._child = await self._supervisor.start_again(self._child)
        logger.warning("the OpenAI frontend is started again")


async def keep_all(*kept: Kept) -> None:
    """Keep several things; raises the ``CommandError`` of the first that is given up."""
    await asyncio.gather(*(each.keep() for each in kept))


async def load_model(model: TritonModel, triton: Child) -> None:
    """Load the model; if the engine died without a word of its own, its last lines go with the error.

    Raises:
        CommandError: it cannot be loaded, or its stub died in its first moment: Triton waits for it for ever.
    """
    try:
        await _first(model.load(), _watch_stub(triton, _LOADING_WITHOUT_STUB_S))
    except CommandError as error:
        says_nothing = isinstance(error, ModelDied) or "ended before it was ready" in error.message
        raise CommandError(error.message, triton.last_lines() if says_nothing else ()) from None


async def _watch_stub(triton: Child, absence_s: float) -> NoReturn:
    """Look for the stub of Triton's model.

    Raises:
        ModelDied: there was none for ``absence_s``.
    """
    absent_s = 0.0
    while absent_s < absence_s:
        await asyncio.sleep(_LOOK_S)
        is_there = any(_STUB.startswith(member.name) and member.state != "Z" for member in triton.members())
        absent_s = 0.0 if is_there else absent_s + _LOOK_S
    raise ModelDied("the stub of the model has ended", triton.last_lines())


async def _first(work: Coroutine[Any, Any, None], watch: Coroutine[Any, Any, NoReturn]) -> None:
    """Do some work, unless a watch ends it with an error."""
    tasks = [asyncio.create_task(work), asyncio.create_task(watch)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await done.pop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
