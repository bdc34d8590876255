"""Large request bodies: a few in memory at a time, and parsed outside the event loop.

What makes a body slow to parse is the number of its values, not of its bytes: while JSON becomes Python
objects, the GIL is held, on whatever thread. So the values are counted first, which is quick, and too many are
refused.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple, ParamSpec, TypeVar

from ernie_wire.errors import QueueFull

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MAX_VALUES = 1 << 18
"""Twice the token ids of the longest context that models have; parsing them takes about 50 ms."""
LARGE_BYTES = 32 << 10  # parsing more than this takes longer than a thread switch
_PLACES = ((256 << 10, 16), (8 << 20, 4))
"""Of bodies above a size, how many are in memory at a time; the largest hold pictures in base64."""
_PLACE_WAIT_S = 60.0


class BodyReader:
    """Reads the bodies of one process; use it inside one event loop."""

    def __init__(self) -> None:
        # One thread: with two, the event loop would wait twice as long for the GIL.
        self._thread = ThreadPoolExecutor(1, "large-bodies")
        self._places = [(num_bytes, asyncio.Semaphore(number)) for num_bytes, number in _PLACES]
        self._num_placed = 0

    def close(self) -> None:
        """Stop the thread after its current work."""
        self._thread.shutdown(wait=False)

    async def read(self, pieces: AsyncIterator[bytes], parse: Callable[[bytes], Result]) -> tuple[Result, int]:
        """Return the result of ``parse`` for a whole body, and the body's size in bytes.

        Raises:
            QueueFull: no place became free for this large body.
        """
        async with AsyncExitStack() as stack:
            parts: list[bytes] = []
            num_bytes, places = 0, iter(self._places)
            threshold, place = next(places)
            async for piece in pieces:
                parts.append(piece)
                num_bytes += len(piece)
                while num_bytes > threshold:
                    await stack.enter_async_context(self._place(place))
                    threshold, place = next(places, (sys.maxsize, place))
            body = b"".join(parts)
            parts.clear()
            return await self.offload(num_bytes, parse, body), num_bytes

    async def offload(
        self,
        num_bytes: int,
        work: Callable[Parameters, Result],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Result:
        """Return the result of ``work`` on a body of ``num_bytes``; on the thread if that is large."""
        if num_bytes <= LARGE_BYTES:
            return work(*arguments, **named)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*arguments, **named))

    @asynccontextmanager
    async def _place(self, places: asyncio.Semaphore) -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(places.acquire(), _PLACE_WAIT_S)
        except asyncio.TimeoutError:
            raise QueueFull("too many large request bodies are being read; try again later") from None
        self._num_placed += 1
        try:
            yield
        finally:
            places.release()
            self._num_placed -= 1
            if not self._num_placed:
                asyncio.get_running_loop().run_in_executor(self._thread, _trim_memory)


def _trim_memory() -> None:
    """Make glibc return freed memory to the system; other C libraries keep little."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Excess(NamedTuple):
    """Where a body has too many values.

    Attributes:
        name: the last string before them: the name of the field if they are a list.
        num_in_list: number of values in that list.
    """

    name: bytes
    num_in_list: int


def find_excess(body: bytes, max_values: int = MAX_VALUES) -> Excess | None:
    """Find where a JSON text has too many values, from above: by its commas, brackets and strings.

    Args:
        body: the text; if it is not JSON, the parser will report that.
        max_values: maximum number of values.

    Returns:
        Where the maximum is exceeded, or None.
    """
    if b"\\" in body:  # without escaped quotes, every quote begins or ends a string
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    num_values, name, begin = 0, b"", 0
    # Each turn takes what is between two strings, [begin:end], and then the string itself, which becomes
    # ``name``.
    while True:
        quote = body.find(b'"', begin)
        end = len(body) if quote < 0 else quote
        num_values += 1 + sum(body.count(mark, begin, end) for mark in (b",", b"[", b"{"))
        if num_values > max_values:
            bracket = body.find(b"]", begin, end)
            list_end = end if bracket < 0 else bracket
            return Excess(name, body.count(b",", begin, list_end) + 1)
        closing = body.find(b'"', end + 1)
        if quote < 0 or closing < 0:
            return None
        name, begin = body[end + 1 : closing], closing + 1
