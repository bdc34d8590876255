"""Calls that many make at once share one execution, and its result or error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """One function whose concurrent and recent calls share a result; use it inside one event loop.

    Args:
        call: the function.
        max_age_s: how long a result is valid.
        max_failure_age_s: how long an error is.
        clock: seconds.
    """

    def __init__(
        self,
        call: Callable[[], Awaitable[Result]],
        max_age_s: float,
        max_failure_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call = call
        self._max_age_s = max_age_s
        self._max_failure_age_s = max_failure_age_s
        self._clock = clock
        self._task: asyncio.Task[Result] | None = None
        self._done_at_s = 0.0

    async def get(self) -> Result:
        """Return a result that is still valid, or that of the call in progress, or of a new one.

        Raises:
            Exception: what the call raised.
        """
        if self._task is None or (self._task.done() and not self._is_valid(self._task)):
            self._task = asyncio.create_task(self._timed())
            self._task.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._task)  # a caller that is cancelled does not cancel the others' call

    def forget(self) -> None:
        """Make the next ``get`` start a new call."""
        self._task = None

    async def _timed(self) -> Result:
        try:
            return await self._call()
        finally:
            self._done_at_s = self._clock()

    def _is_valid(self, task: asyncio.Task[Result]) -> bool:
        if task.cancelled():
            return False
        limit_s = self._max_age_s if task.exception() is None else self._max_failure_age_s
        return self._clock() - self._done_at_s < limit_s


def _retrieve_exception(task: asyncio.Task[Result]) -> None:
    """Keep asyncio from logging an error whose callers were all cancelled."""
    if not task.cancelled():
        task.exception()
