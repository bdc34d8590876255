"""Request bodies: few large ones in memory at once, and read beside the event loop, so that nobody waits.

What makes a body slow to read is how many values it has, not its bytes: while JSON becomes Python objects
nothing else runs in the process, on whatever thread. So values are counted before, which takes a moment.

Must not know any endpoint.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple, ParamSpec, TypeVar

from ernie_wire.errors import QueueFull

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MOST_VALUES = 1 << 18
"""Twice the token ids of the longest context there is; they take some 50 ms to read."""
LARGE_BYTES = 32 << 10  # what takes longer than the way to a thread and back
_UNBOUNDED_BYTES = 256 << 10  # of each body, however many there are
_NUM_PLACES = 16
_PLACE_WAIT_S = 60.0


class BodyReader:
    """Reads the bodies of one process; use it inside one event loop."""

    def __init__(self) -> None:
        # One thread: two would only have the loop wait twice as long for its turn.
        self._thread = ThreadPoolExecutor(1, "large-bodies")
        self._places = asyncio.Semaphore(_NUM_PLACES)
        self._num_placed = 0

    def close(self) -> None:
        """End the thread when its work is done."""
        self._thread.shutdown(wait=False)

    async def read(self, pieces: AsyncIterator[bytes], read: Callable[[bytes], Result]) -> tuple[Result, int]:
        """Return what ``read`` makes of a whole body, and how many bytes that had.

        Raises:
            QueueFull: so many other large bodies came before that it was not even received.
        """
        async with AsyncExitStack() as stack:
            parts: list[bytes] = []
            num_bytes, has_place = 0, False
            async for piece in pieces:
                parts.append(piece)
                num_bytes += len(piece)
                if num_bytes > _UNBOUNDED_BYTES and not has_place:
                    await stack.enter_async_context(self._place())
                    has_place = True
            body = b"".join(parts)
            parts.clear()
            return await self.offload(num_bytes, read, body), num_bytes

    async def offload(
        self,
        num_bytes: int,
        work: Callable[Parameters, Result],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Result:
        """Return what ``work`` on a body of ``num_bytes`` returns; it runs beside the loop if that is large."""
        if num_bytes <= LARGE_BYTES:
            return work(*arguments, **named)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*arguments, **named))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(self._places.acquire(), _PLACE_WAIT_S)
        except asyncio.TimeoutError:
            raise QueueFull("too many large request bodies are being read; try again later") from None
        self._num_placed += 1
        try:
            yield
        finally:
            self._places.release()
            self._num_placed -= 1
            if not self._num_placed:
                asyncio.get_running_loop().run_in_executor(self._thread, _give_back_memory)


def _give_back_memory() -> None:
    """Have the C library return what it keeps for the next allocations; others than glibc keep little."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Excess(NamedTuple):
    """Where a body has too many values.

    Attributes:
        name: the last string before them; the name of the field, if they are a list.
        num_in_list: values of that list.
    """

    name: bytes
    num_in_list: int


def find_excess(body: bytes, most: int = MOST_VALUES) -> Excess | None:
    """Count commas, opening brackets and strings: a JSON text has no more values than these.

    Args:
        body: a JSON text; of anything else the parser will say more.
        most: how many there may be.

    Returns:
        Where they were exceeded, or None.
    """
    if b"\\" in body:  # without escapes every quote begins or ends a string
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    num_values, name, begin = 0, b"", 0
    while True:
        quote = body.find(b'"', begin)
        end = len(body) if quote < 0 else quote
        num_values += 1 + sum(body.count(mark, begin, end) for mark in (b",", b"[", b"{"))
        if num_values > most:
            bracket = body.find(b"]", begin, end)
            list_end = end if bracket < 0 else bracket
            return Excess(name, body.count(b",", begin, list_end) + 1)
        closing = body.find(b'"', end + 1)
        if quote < 0 or closing < 0:
            return None
        name, begin = body[end + 1 : closing], closing + 1
