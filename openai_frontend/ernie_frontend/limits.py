"""An ASGI middleware that bounds the requests in flight.

Must not know what a request means.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_frontend.errors import error_response
from ernie_frontend.slots import Slots
from ernie_wire.errors import QueueFull

GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


class ConcurrencyLimit:
    """Answers 429 while ``max_concurrency`` generation requests are in flight, in all workers together."""

    def __init__(self, app: ASGIApp, slots: Slots, max_concurrency: int) -> None:
        self._app = app
        self._slots = slots
        self._max_concurrency = max_concurrency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it, or answer 429."""
        if scope["type"] != "http" or scope["path"] not in GENERATION_PATHS:
            await self._app(scope, receive, send)
            return
        slot = self._slots.take()
        if slot is None:
            error = QueueFull(f"too many requests: {self._max_concurrency} are in flight; try again later")
            await error_response(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._slots.give_back(slot)
