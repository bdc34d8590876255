"""Streams of outputs, one for each generation of a request, and functions to combine them.

A stream is an async generator of ``Output``; closing it early cancels the generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ernie_wire.errors import EngineCrashed
from ernie_wire.messages import Output, join_outputs

OutputStream = AsyncGenerator[Output, None]
Item = tuple[int, Output]
"""The index of a stream, and an output of it."""


async def collect(streams: Sequence[OutputStream]) -> list[Output]:
    """Return the whole answers of concurrent generations; if one fails, the others are cancelled.

    Raises:
        ErnieError: a generation failed.
        EngineCrashed: a stream ended without a finish reason.
    """
    parts: list[list[Output]] = [[] for _ in streams]
    async with aclosing(merge(streams)) as items:
        async for index, output in items:
            parts[index].append(output)
    if not all(each and each[-1].finish_reason for each in parts):
        raise EngineCrashed("the answer ended before it was complete; try again")
    return [join_outputs(each) for each in parts]


async def rechunk(stream: OutputStream, num_tokens: int) -> OutputStream:
    """Yield the outputs of a generation joined, with ``num_tokens`` or more in each but the last."""
    parts: list[Output] = []
    num_missing = num_tokens
    async with aclosing(stream):
        async for output in stream:
            parts.append(output)
            num_missing -= output.num_output_tokens
            if num_missing <= 0 or output.is_last:
                yield join_outputs(parts)
                parts, num_missing = [], num_tokens
    if parts:
        yield join_outputs(parts)


async def merge(streams: Sequence[OutputStream]) -> AsyncGenerator[Item, None]:
    """Yield the outputs of all streams as they arrive; if one stream fails, the others are cancelled."""
    if len(streams) == 1:  # the normal case needs neither queue nor task
        async with aclosing(streams[0]) as only:
            async for output in only:
                yield 0, output
        return
    # Each reader holds at most one output beyond the queue, so a slow client slows the generations down.
    items: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(len(streams))
    readers = [asyncio.create_task(_read(index, stream, items)) for index, stream in enumerate(streams)]
    num_open = len(streams)
    try:
        while num_open:
            item = await items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(index: int, stream: OutputStream, items: asyncio.Queue[Item | BaseException | None]) -> None:
    """Put the outputs of a stream into a queue, and at its end None or the exception that ended it."""
    end = None
    try:
        async with aclosing(stream):
            async for output in stream:
                await items.put((index, output))
    except Exception as error:  # noqa: BLE001 - raised by ``merge``
        end = error
    except asyncio.CancelledError as error:
        if items.full():  # ``merge`` may have stopped reading; the end must get in all the same
            items.get_nowait()
        items.put_nowait(error)
        raise
    await items.put(end)
