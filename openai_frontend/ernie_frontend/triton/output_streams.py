"""The outputs of generations as they come from Triton, and ways to gather them.

A stream is an async generator of ``Output``; closing it early cancels the generation. This module must not know
where the outputs come from (``triton_client``) or what becomes of them (``translate``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from ernie_wire.errors import EngineCrashed
from ernie_wire.messages import Output, join_outputs

OutputStream = AsyncGenerator[Output, None]
Item = tuple[int, Output]
"""The index of a stream, and what it gave."""


async def collect(stream: OutputStream) -> Output:
    """Return a whole answer as one output.

    Raises:
        ErnieError: the generation failed.
        EngineCrashed: the stream ended without a finish reason.
    """
    async with aclosing(stream):
        parts = [output async for output in stream]
    if not parts or parts[-1].finish_reason is None:
        raise EngineCrashed("the answer ended before it was complete; try again")
    return join_outputs(parts)


async def collect_all(streams: Sequence[OutputStream]) -> list[Output]:
    """Return the whole answers of concurrent generations; if one fails, the others are cancelled."""
    if len(streams) == 1:
        return [await collect(streams[0])]
    tasks = [asyncio.ensure_future(collect(stream)) for stream in streams]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _cancel(tasks)


async def gather(stream: OutputStream, num_tokens: int) -> OutputStream:
    """Yield the outputs of a generation joined, ``num_tokens`` or more in each but the last."""
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


async def only_prompt(stream: OutputStream) -> OutputStream:
    """Yield a generation without its answer: of requests for no tokens the engine makes one."""
    async with aclosing(stream):
        async for output in stream:
            reason = None if output.finish_reason is None else "length"
            yield replace(
                output,
                text="",
                marks=(),
                token_ids=(),
                num_output_tokens=0,
                logprobs=None,
                finish_reason=reason,
            )


async def merge(streams: Sequence[OutputStream]) -> AsyncGenerator[Item, None]:
    """Yield the outputs of all streams as they come; if one stream fails, the others are cancelled."""
    if len(streams) == 1:  # most answers are alone: no queue, no task
        async with aclosing(streams[0]) as alone:
            async for output in alone:
                yield 0, output
        return
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
        await _cancel(readers)


async def _read(index: int, stream: OutputStream, items: asyncio.Queue[Item | BaseException | None]) -> None:
    """Put what a stream gives into a queue, and at its end None or what ended it."""
    end = None
    try:
        async with aclosing(stream):
            async for output in stream:
                await items.put((index, output))
    except Exception as error:  # noqa: BLE001 - raised by whoever takes it from the queue
        end = error
    except asyncio.CancelledError as error:
        if items.full():  # nobody may be there to make room
            items.get_nowait()
        items.put_nowait(error)
        raise
    await items.put(end)


async def _cancel(tasks: Sequence[asyncio.Future[Output]] | Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
