"""Several Tritons behind one frontend: round robin over those that can be reached.

A request that found nobody at an address, and has no answer yet, goes to the next one. Must not know what a
request asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

from ernie_frontend.generation import OutputStream
from ernie_frontend.settings import Settings
from ernie_frontend.triton_client import TritonClient, TritonUnreachable
from ernie_wire.errors import ModelUnavailable
from ernie_wire.messages import GenerateRequest
from ernie_wire.status import Health, Status

Answer = TypeVar("Answer")
_AVOID_S = 5.0


class TritonPool:
    """The Tritons of ``Settings.triton_urls``. Make and close it inside the event loop that uses it."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clients = [TritonClient(url, settings) for url in settings.triton_urls]
        self._avoid_until = dict.fromkeys(settings.triton_urls, 0.0)
        self._clock = clock
        self._turn = 0

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(client.close() for client in self._clients))

    @property
    def num_generations(self) -> int:
        """How many are under way, at all Tritons."""
        return sum(client.num_generations for client in self._clients)

    def stop_generations(self) -> None:
        """End all that are under way, as ``TritonClient.stop_generations``."""
        for client in self._clients:
            client.stop_generations()

    async def generate(self, model: str, request: GenerateRequest) -> OutputStream:
        """Yield what a model answers, as ``TritonClient.generate``."""
        failures = []
        for client in self._in_turn():
            has_begun = False
            try:
                async with aclosing(client.generate(model, request)) as outputs:
                    async for output in outputs:
                        has_begun = True
                        yield output
            except TritonUnreachable as error:
                self._avoid(client)
                if has_begun:
                    raise
                failures.append(error.message)
            else:
                return
        raise ModelUnavailable("; ".join(dict.fromkeys(failures)))

    async def describe(self, model: str) -> Status:
        """Return what a model says of itself, as ``TritonClient.describe``."""
        return await self._ask(lambda client: client.describe(model))

    async def health(self, model: str) -> Health:
        """Return how a model is, as ``TritonClient.health``."""
        return await self._ask(lambda client: client.health(model))

    async def ready_models(self) -> list[str]:
        """Return the loaded models of the first Triton that answers."""
        return await self._ask(lambda client: client.ready_models())

    async def _ask(self, question: Callable[[TritonClient], Awaitable[Answer]]) -> Answer:
        failures = []
        for client in self._in_turn():
            try:
                return await question(client)
            except TritonUnreachable as error:  # noqa: PERF203  a handful of addresses
                self._avoid(client)
                failures.append(error.message)
        raise ModelUnavailable("; ".join(dict.fromkeys(failures)))

    def _in_turn(self) -> Iterator[TritonClient]:
        """Yield every client once, beginning with the next; those lately unreachable come last."""
        self._turn = (self._turn + 1) % len(self._clients)
        clients = self._clients[self._turn :] + self._clients[: self._turn]
        now = self._clock()
        yield from sorted(clients, key=lambda client: self._avoid_until[client.url] > now)

    def _avoid(self, client: TritonClient) -> None:
        self._avoid_until[client.url] = self._clock() + _AVOID_S
