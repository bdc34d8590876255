"""A question that many ask at once and that is put once: the answer, or the error, is for all of them.

Must not know what is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class SharedQuestion(Generic[Answer]):
    """One question; use it inside one event loop.

    Args:
        ask: puts the question.
        max_age_s: how long an answer is good for.
        max_failure_age_s: how long an error is.
        clock: seconds.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Answer]],
        max_age_s: float,
        max_failure_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._max_age_s = max_age_s
        self._max_failure_age_s = max_failure_age_s
        self._clock = clock
        self._task: asyncio.Task[Answer] | None = None
        self._done_at_s = 0.0

    async def answer(self) -> Answer:
        """Return the answer: one that is still good, or the one under way, or a new one.

        Raises:
            Exception: what the question raised.
        """
        if self._task is None or (self._task.done() and not self._is_good(self._task)):
            self._task = asyncio.create_task(self._timed())
            self._task.add_done_callback(_seen)
        return await asyncio.shield(self._task)  # whoever goes away leaves it to the others

    def forget(self) -> None:
        """Put the question again when it is asked next."""
        self._task = None

    async def _timed(self) -> Answer:
        try:
            return await self._ask()
        finally:
            self._done_at_s = self._clock()

    def _is_good(self, task: asyncio.Task[Answer]) -> bool:
        if task.cancelled():
            return False
        limit_s = self._max_age_s if task.exception() is None else self._max_failure_age_s
        return self._clock() - self._done_at_s < limit_s


def _seen(task: asyncio.Task[Answer]) -> None:
    """Take note of an error that nobody may be left to hear."""
    if not task.cancelled():
        task.exception()
