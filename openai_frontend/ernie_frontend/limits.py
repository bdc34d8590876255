"""Two ASGI middlewares that bound what clients may ask of this process: body bytes and requests in flight.

Must not know what a request means.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.errors import BodyTooLarge, error_response
from ernie_frontend.slots import Slots
from ernie_wire.errors import QueueFull

GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


class BodyLimit:
    """Answers 413 to bodies above ``max_body_bytes``, announced or not: the bytes that come are counted."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting ``receive``, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            await error_response(self._too_large(int(announced)))(scope, receive, send)
            return
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large(received)
            return message

        await self._app(scope, counting_receive, send)

    def _too_large(self, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"the request body has {size} bytes or more; at most {self._max_body_bytes} are accepted"
        )


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
