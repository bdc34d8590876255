"""The end of a frontend process: answers under way get some time; those that are left end with an error.

uvicorn tells every connection when it shuts down (``Http1Protocol.shutdown``), and would in the end cancel what
is left without a word to its client. Must not know what a request is.
"""

from __future__ import annotations

import asyncio
import logging

from ernie_frontend.triton_pool import TritonPool

logger = logging.getLogger(__name__)

STATE_KEY = "drain"
"""Where a connection finds the ``Drain`` in the state of the application's lifetime."""


class Drain:
    """Ends the generations that are left some time after the shutdown began.

    Args:
        pool: has the generations.
        limit_s: seconds that they get; None: as long as they take.
    """

    def __init__(self, pool: TritonPool, limit_s: float | None) -> None:
        self._pool = pool
        self._limit_s = limit_s
        self._has_begun = False

    def begin(self) -> None:
        """Start the clock; again: do nothing."""
        if self._has_begun:
            return
        self._has_begun = True
        limit = "as long as they take" if self._limit_s is None else f"up to {self._limit_s:g} s"
        if count := self._pool.num_generations:
            logger.warning("stopping: %d answers are under way and get %s", count, limit)
        if self._limit_s is not None:
            asyncio.get_running_loop().call_later(self._limit_s, self._end)

    def _end(self) -> None:
        """Fail what is left: a stream ends with an error event and ``[DONE]``, all else with 503."""
        if count := self._pool.num_generations:
            logger.warning("stopping: %d answers end with an error, as their time is over", count)
            self._pool.stop_generations()
