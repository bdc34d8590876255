"""Several Tritons behind one frontend: round robin over those that can be reached.

A request to an unreachable Triton that has no answer yet goes to the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

from ernie_frontend.settings import Settings
from ernie_frontend.triton.call_errors import TritonUnreachable
from ernie_frontend.triton.client import TritonClient
from ernie_frontend.triton.output_streams import OutputStream
from ernie_wire.errors import ModelUnavailable, QueueFull
from ernie_wire.messages import GenerateRequest
from ernie_wire.status import Health, Status

Result = TypeVar("Result")
logger = logging.getLogger(__name__)
_AVOID_S = 5.0


class TritonPool:
    """The Tritons of ``Settings.triton_urls``. Make and close it inside the event loop that uses it."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clients = [TritonClient(url, settings) for url in settings.triton_urls]
        self._avoid_until = dict.fromkeys(settings.triton_urls, 0.0)
        self._clock = clock
        self._turn = 0
        self._drain_s = settings.drain_s
        self._is_draining = False
        self._max_held_bytes = settings.max_held_prompt_bytes
        self._num_held_bytes = 0

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(client.close() for client in self._clients))

    @property
    def num_generations(self) -> int:
        """Number of generations under way, at all Tritons."""
        return sum(client.num_generations for client in self._clients)

    def drain(self) -> None:
        """Give the generations under way ``Settings.drain_s`` seconds to end; do nothing if called again.

        uvicorn notifies every connection when it shuts down, and would in the end cancel the remaining answers
        without telling their clients why.
        """
        if self._is_draining:
            return
        self._is_draining = True
        limit = "as long as they take" if self._drain_s is None else f"up to {self._drain_s:g} s"
        if count := self.num_generations:
            logger.warning("stopping: %d answers are under way and get %s", count, limit)
        if self._drain_s is not None:
            asyncio.get_running_loop().call_later(self._drain_s, self._stop_generations)

    def _stop_generations(self) -> None:
        """Fail what is left: a stream ends with an error event and ``[DONE]``, all else with 503."""
        if count := self.num_generations:
            logger.warning("stopping: %d answers end with an error, because their time is over", count)
        for client in self._clients:
            client.stop_generations()

    async def generate(self, model: str, request: GenerateRequest) -> OutputStream:
        """Yield the outputs of a generation, as ``TritonClient.generate``.

        Raises:
            QueueFull: the prompts that wait for their first output are too large in sum.
        """
        failures = []
        with self._held(request.prompt_bytes) as release:
            for client in self._in_turn():
                has_begun = False
                try:
                    async with aclosing(client.generate(model, request)) as outputs:
                        async for output in outputs:
                            if not has_begun:
                                has_begun, request = True, request.without_prompt()
                                release()
                            yield output
                except TritonUnreachable as error:
                    self._avoid(client)
                    if has_begun:
                        raise
                    failures.append(error.message)
                else:
                    return
        raise ModelUnavailable("; ".join(dict.fromkeys(failures)))

    @contextmanager
    def _held(self, num_bytes: int) -> Iterator[Callable[[], None]]:
        """Count a prompt that is held to be sent again, until its end or the call of what this gives."""
        if self._num_held_bytes and self._num_held_bytes + num_bytes > self._max_held_bytes:
            raise QueueFull("too many bytes of prompts and media wait for an answer; try again later")
        self._num_held_bytes += num_bytes

        def release() -> None:
            nonlocal num_bytes
            self._num_held_bytes -= num_bytes
            num_bytes = 0

        try:
            yield release
        finally:
            release()

    async def describe(self, model: str) -> Status:
        """Return the description of a model, as ``TritonClient.describe``."""
        return await self._first(lambda client: client.describe(model))

    async def health(self, model: str) -> Health:
        """Return the health of a model, as ``TritonClient.health``."""
        return await self._first(lambda client: client.health(model))

    async def ready_models(self) -> list[str]:
        """Return the loaded models of the first Triton that answers."""
        return await self._first(lambda client: client.ready_models())

    async def _first(self, call: Callable[[TritonClient], Awaitable[Result]]) -> Result:
        failures = []
        for client in self._in_turn():
            try:
                return await call(client)
            except TritonUnreachable as error:  # noqa: PERF203  a handful of addresses
                self._avoid(client)
                failures.append(error.message)
        raise ModelUnavailable("; ".join(dict.fromkeys(failures)))

    def _in_turn(self) -> Iterator[TritonClient]:
        """Yield every client once, from the next one on; recently unreachable ones come last."""
        self._turn = (self._turn + 1) % len(self._clients)
        clients = self._clients[self._turn :] + self._clients[: self._turn]
        now = self._clock()
        yield from sorted(clients, key=lambda client: self._avoid_until[client.url] > now)

    def _avoid(self, client: TritonClient) -> None:
        self._avoid_until[client.url] = self._clock() + _AVOID_S
