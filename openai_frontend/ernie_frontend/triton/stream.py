"""One gRPC stream to Triton with one request, read to its end by its own task.

Outputs come in its responses, or past Triton (``local_outputs``). Its consumer may stop early, but the reading
goes on: if a call is cancelled while its last response is on the way, Triton 2.51 never finishes unloading the
model, or crashes. So a call is cancelled only if it does not end in time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from ernie_wire.errors import ErnieError
from ernie_wire.messages import Output, join_outputs

Response = tuple[InferResult, InferenceServerException | None]
"""``(result, None)`` or ``(None, error)``."""
_MAX_UNREAD = 16
_MAX_SEPARATE = 64
"""Delivered outputs are joined beyond this number: each takes more memory than its text."""
_LATE_S = 5.0
"""How long an output that comes past Triton is waited for after the end of the request's call."""


class Call(Protocol):
    """A gRPC stream as tritonclient returns it."""

    def __aiter__(self) -> AsyncIterator[Response]:
        """Yield the responses."""

    def cancel(self) -> bool:
        """Cancel the call; harmless after its end."""


class TritonStream:
    """An iterator over the responses of a call, for one consumer. Use it inside one event loop.

    A slow consumer makes Triton wait: at most ``_MAX_UNREAD`` responses are buffered. What is delivered past
    Triton is joined while the consumer is slow, so it has at most the size of the answer.

    Args:
        call: the call.
        is_delivered: whether outputs are delivered; the call then has none, and its end is not theirs.
    """

    def __init__(self, call: Call, *, is_delivered: bool = False) -> None:
        self._call = call
        self._unread: asyncio.Queue[Response | None] = asyncio.Queue(_MAX_UNREAD)
        self._delivered: list[Output] = []
        self._is_delivered = is_delivered
        self.has_begun = False
        """Whether a response has been consumed."""
        self._has_consumer = True
        self._failure: ErnieError | None = None
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._wake_consumer)

    @property
    def is_over(self) -> bool:
        """Whether the call has ended; buffered responses may be left."""
        return self._reader.done()

    def __aiter__(self) -> TritonStream:
        """Return itself."""
        return self

    async def __anext__(self) -> Response | Output:
        """Return the next response, or what was delivered meanwhile.

        Raises:
            grpc.aio.AioRpcError: the call failed.
            ErnieError: the argument of ``fail`` or ``give_up``.
        """
        while not self._delivered:
            response = None if self._unread.empty() and self.is_over else await self._unread.get()
            if response is not None:
                self.has_begun = True
                return response
            if self._delivered:
                break
            if self._failure is not None:
                raise self._failure
            if self.is_over:
                self._reader.result()
                if not await self._is_late():
                    raise StopAsyncIteration
        outputs, self._delivered = self._delivered, []
        self.has_begun = True
        return join_outputs(outputs)

    async def _is_late(self) -> bool:
        """Wait for what may come after the end of the call; return whether there is an output or a failure."""
        if self._is_delivered:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._delivery_or_failure(), _LATE_S)
        return bool(self._delivered) or self._failure is not None

    async def _delivery_or_failure(self) -> None:
        while not self._delivered and self._failure is None:
            await self._unread.get()  # also empty wake-ups, such as that of the end of the call

    def deliver(self, output: Output) -> None:
        """Add an output that came past Triton."""
        if self._has_consumer:
            self._delivered.append(output)
            if len(self._delivered) >= _MAX_SEPARATE:
                self._delivered = [join_outputs(self._delivered)]
            self._wake()

    def fail(self, error: ErnieError) -> None:
        """Cancel the call, which Triton no longer works on, and raise ``error`` in the consumer."""
        self._failure = error
        self._call.cancel()
        self._wake()  # if the call has ended before

    def give_up(self, error: ErnieError) -> None:
        """Raise ``error`` in the consumer; the call goes on until ``end``."""
        self._failure = error
        self.leave()
        self._unread.put_nowait(None)

    def leave(self) -> None:
        """Stop consuming: further responses are dropped."""
        self._has_consumer = False
        self._delivered.clear()
        while not self._unread.empty():
            self._unread.get_nowait()

    async def end(self, within_s: float) -> None:
        """Stop consuming and wait for the end of the call; cancel it after ``within_s``."""
        self.leave()
        await asyncio.wait({self._reader}, timeout=within_s)
        self._call.cancel()
        await asyncio.wait({self._reader})

    async def _read(self) -> None:
        async for response in self._call:
            if self._has_consumer:
                await self._unread.put(response)

    def _wake_consumer(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled():
            reader.exception()  # retrieved, as there may be no consumer to see it
        self._wake()

    def _wake(self) -> None:
        if self._unread.empty():  # the consumer waits only then
            self._unread.put_nowait(None)
