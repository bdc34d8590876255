"""An ASGI middleware that bounds the engine's requests in flight, over all worker processes of a frontend.

Slot i is a POSIX lock on byte i of one file that all workers open, so the kernel does the counting and
releases the slots of a worker that dies.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.http_errors import error_response
from ernie_frontend.schema.openapi import GENERATIONS, PROMPT_BODIES
from ernie_wire.errors import QueueFull

_LIMITED = GENERATIONS.keys() | PROMPT_BODIES.keys()


def slots_file() -> str:
    """Return the path of a new file for ``Slots``, which exists as long as this process."""
    return f"/proc/{os.getpid()}/fd/{os.memfd_create('ernie-frontend-slots')}"


class Slots:
    """A semaphore of processes: all that open the same file share it.

    The semaphores of a process in one file end together: when one is closed, the kernel releases all.

    Args:
        path: of ``slots_file``.
        number: how many slots there are; the same in all processes.
        first: the first slot's byte, for a file of several semaphores.
    """

    def __init__(self, path: str, number: int, first: int = 0) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # Slots that this process does not hold; the most recently released, and so probably free, come first.
        self._candidates = deque(range(first, first + number))

    def acquire(self) -> int | None:
        """Return a slot that was free, or None if there is none."""
        for _ in range(len(self._candidates)):
            slot = self._candidates.popleft()
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except (BlockingIOError, PermissionError):  # another process holds it; POSIX allows either error
                self._candidates.append(slot)
            else:
                return slot
        return None

    def release(self, slot: int) -> None:
        """Free a slot that ``acquire`` returned."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
        self._candidates.appendleft(slot)

    def close(self) -> None:
        """Release every slot of this process."""
        os.close(self._file)


class ConcurrencyLimit:
    """Answers 429 while ``max_concurrency`` generation requests are in flight, in all workers together.

    A request counts from the time its body is complete, so slow uploads take no slots.
    """

    def __init__(self, app: ASGIApp, slots: Slots, max_concurrency: int) -> None:
        self._app = app
        self._slots = slots
        self._max_concurrency = max_concurrency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it, or answer 429."""
        if scope["type"] != "http" or scope["path"] not in _LIMITED:
            await self._app(scope, receive, send)
            return
        try:
            self._slots.release(self._acquire())  # a full server answers now, and not after the upload
        except QueueFull as error:
            await error_response(error)(scope, receive, send)
            return
        slot: int | None = None

        async def counted_receive() -> Message:
            nonlocal slot
            message = await receive()
            if slot is None and message["type"] == "http.request" and not message.get("more_body", False):
                slot = self._acquire()
            return message

        try:
            await self._app(scope, counted_receive, send)
        finally:
            if slot is not None:
                self._slots.release(slot)

    def _acquire(self) -> int:
        slot = self._slots.acquire()
        if slot is None:
            raise QueueFull(f"too many requests: {self._max_concurrency} are in flight; try again later")
        return slot
