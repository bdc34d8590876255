"""Disconnects: work for a client that goes away is cancelled, and with it the generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ernie_frontend.middleware.request_log import record_of
from ernie_wire.errors import RequestCancelled

Result = TypeVar("Result")


async def cancel_on_disconnect(work: Awaitable[Result], scope: Scope, receive: Receive) -> Result:
    """Return the result of ``work``, or cancel it when the client disconnects.

    The request's body must have been read.

    Raises:
        RequestCancelled: the client disconnected first.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        record_of(scope).is_disconnected = True
        raise RequestCancelled("the client closed the connection")
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events; closes their source at their end or when the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with aclosing(self._events):
            try:
                await cancel_on_disconnect(self._send(send), scope, receive)
            except (RequestCancelled, OSError):
                record_of(scope).is_disconnected = True

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        async for events in self._events:
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
