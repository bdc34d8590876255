"""An ASGI middleware that bounds the requests in flight.

Must not know what a request means.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.errors import error_response
from ernie_frontend.schema.openapi import GENERATIONS
from ernie_frontend.slots import Slots
from ernie_wire.errors import QueueFull


class ConcurrencyLimit:
    """Answers 429 while ``max_concurrency`` generation requests are in flight, in all workers together.

    A request is in flight when its body is complete: clients that are slow to send theirs keep nobody out.
    """

    def __init__(self, app: ASGIApp, slots: Slots, max_concurrency: int) -> None:
        self._app = app
        self._slots = slots
        self._max_concurrency = max_concurrency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it, or answer 429."""
        if scope["type"] != "http" or scope["path"] not in GENERATIONS:
            await self._app(scope, receive, send)
            return
        try:
            self._slots.give_back(self._take())  # told at once, and not after the upload
        except QueueFull as error:
            await error_response(error)(scope, receive, send)
            return
        slot: int | None = None

        async def counted_receive() -> Message:
            nonlocal slot
            message = await receive()
            if slot is None and message["type"] == "http.request" and not message.get("more_body", False):
                slot = self._take()
            return message

        try:
            await self._app(scope, counted_receive, send)
        finally:
            if slot is not None:
                self._slots.give_back(slot)

    def _take(self) -> int:
        slot = self._slots.take()
        if slot is None:
            raise QueueFull(f"too many requests: {self._max_concurrency} are in flight; try again later")
        return slot
