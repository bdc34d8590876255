"""One gRPC stream to Triton with one request, read to its end by a task of its own.

Whoever waits for a response may go away; the reading goes on, because a call that is cancelled while its last
response is on the way costs Triton its model: 2.51 never finishes unloading it, or crashes. So a call is
cancelled only when its end does not come in time. Must not know tensors, nor what a response says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from ernie_wire.errors import ErnieError

Response = tuple[InferResult, InferenceServerException | None]
"""``(result, None)`` or ``(None, error)``."""
_MAX_UNREAD = 16


class Call(Protocol):
    """A gRPC stream as tritonclient gives it out."""

    def __aiter__(self) -> AsyncIterator[Response]:
        """Yield the responses."""

    def cancel(self) -> bool:
        """Cancel the call; harmless when it is over."""


class TritonStream:
    """An iterator over the responses of a call, for one listener. Use it inside one event loop.

    A listener that is slow makes Triton wait: at most ``_MAX_UNREAD`` responses are held for it.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._unread: asyncio.Queue[Response | None] = asyncio.Queue(_MAX_UNREAD)
        self.has_begun = False
        """Whether a response has come out."""
        self._has_listener = True
        self._failure: ErnieError | None = None
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._wake_listener)

    @property
    def is_over(self) -> bool:
        """Whether the call has ended; unread responses may be left."""
        return self._reader.done()

    def __aiter__(self) -> TritonStream:
        """Return itself."""
        return self

    async def __anext__(self) -> Response:
        """Return the next response.

        Raises:
            grpc.aio.AioRpcError: the call failed.
            ErnieError: what ``fail`` or ``give_up`` was given.
        """
        response = None if self._unread.empty() and self.is_over else await self._unread.get()
        if response is not None:
            self.has_begun = True
            return response
        if self._failure is not None:
            raise self._failure
        self._reader.result()
        raise StopAsyncIteration

    def fail(self, error: ErnieError) -> None:
        """Cancel the call, which nobody works on any more, and tell the listener why."""
        self._failure = error
        self._call.cancel()

    def give_up(self, error: ErnieError) -> None:
        """Tell the listener that nothing more comes to it, and why; the call goes on until it is ended."""
        self._failure = error
        self.leave()
        self._unread.put_nowait(None)

    def leave(self) -> None:
        """Listen no more: what else comes is dropped."""
        self._has_listener = False
        while not self._unread.empty():
            self._unread.get_nowait()

    async def end(self, within_s: float) -> None:
        """Leave, and wait for the end of the call; cancel it if that does not come in time."""
        self.leave()
        await asyncio.wait({self._reader}, timeout=within_s)
        self._call.cancel()
        await asyncio.wait({self._reader})

    async def _read(self) -> None:
        async for response in self._call:
            if self._has_listener:
                await self._unread.put(response)

    def _wake_listener(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled():
            reader.exception()  # there may be no listener to see it
        if not self._unread.full():  # a listener waits only when nothing is left to read
            self._unread.put_nowait(None)
