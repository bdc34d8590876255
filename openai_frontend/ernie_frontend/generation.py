"""The outputs of generations as they come from Triton, and ways to gather them.

A stream of outputs is an async generator of ``Delta``; closing it early cancels the generation. This module
must not know where the outputs come from (``triton_client``) or what becomes of them (``translate``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from ernie_wire.errors import EngineCrashed
from ernie_wire.logprobs import Logprobs
from ernie_wire.marked_text import Mark, joined


@dataclass(frozen=True)
class Delta:
    """What one response of Triton adds to an answer.

    Attributes:
        text: new text.
        token_ids: new token ids, if they were asked for.
        num_output_tokens: how many tokens are new.
        num_input_tokens: tokens of the prompt; the same in every delta.
        num_cached_tokens: of these, how many were found in the prefix cache.
        finish_reason: ``stop`` or ``length`` in the last delta, else None.
        prompt_ids, prompt_text: the prompt as the model saw it, in the first delta, if asked for.
        logprobs: one for each new token, if asked for.
        prompt_logprobs: one for each token of the prompt, in the first delta, if asked for.
        marks: where structural tokens stand in ``text``.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_output_tokens: int = 0
    num_input_tokens: int = 0
    finish_reason: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    prompt_text: str | None = None
    num_cached_tokens: int = 0
    logprobs: Logprobs = ()
    prompt_logprobs: Logprobs | None = None
    marks: tuple[Mark, ...] = ()


Deltas = AsyncGenerator[Delta, None]


async def collect(deltas: Deltas) -> Delta:
    """Return a whole answer as one delta.

    Raises:
        ErnieError: the generation failed.
        EngineCrashed: the stream ended without a finish reason.
    """
    async with aclosing(deltas):
        parts = [delta async for delta in deltas]
    if not parts or parts[-1].finish_reason is None:
        raise EngineCrashed("the answer ended before it was complete; try again")
    return _joined_deltas(parts)


def _joined_deltas(parts: Sequence[Delta]) -> Delta:
    first, last, text = parts[0], parts[-1], joined(parts)
    return Delta(
        text=text.text,
        marks=text.marks,
        token_ids=tuple(token_id for part in parts for token_id in part.token_ids),
        num_output_tokens=sum(part.num_output_tokens for part in parts),
        num_input_tokens=last.num_input_tokens,
        num_cached_tokens=max(part.num_cached_tokens for part in parts),
        finish_reason=last.finish_reason,
        prompt_ids=first.prompt_ids,
        prompt_text=first.prompt_text,
        logprobs=tuple(entry for part in parts for entry in part.logprobs),
        prompt_logprobs=first.prompt_logprobs,
    )


async def gather(deltas: Deltas, num_tokens: int) -> Deltas:
    """Yield the deltas of a generation joined, ``num_tokens`` or more in each but the last."""
    parts: list[Delta] = []
    async with aclosing(deltas):
        async for delta in deltas:
            parts.append(delta)
            is_enough = sum(part.num_output_tokens for part in parts) >= num_tokens
            if is_enough or delta.finish_reason is not None:
                yield _joined_deltas(parts)
                parts = []
    if parts:
        yield _joined_deltas(parts)


async def only_prompt(deltas: Deltas) -> Deltas:
    """Yield a generation without its answer: of requests for no tokens the engine makes one."""
    async with aclosing(deltas):
        async for delta in deltas:
            reason = None if delta.finish_reason is None else "length"
            yield replace(
                delta,
                text="",
                marks=(),
                token_ids=(),
                num_output_tokens=0,
                logprobs=(),
                finish_reason=reason,
            )


async def collect_all(streams: Sequence[Deltas]) -> list[Delta]:
    """Return the whole answers of concurrent generations; if one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(collect(stream)) for stream in streams]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _cancel(tasks)


async def merge(streams: Sequence[Deltas]) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield ``(index of the stream, delta)`` as they come; if one stream fails, the others are cancelled."""
    pending = {asyncio.ensure_future(anext(stream)): index for index, stream in enumerate(streams)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index = pending.pop(task)
                try:
                    delta = task.result()
                except StopAsyncIteration:
                    continue
                pending[asyncio.ensure_future(anext(streams[index]))] = index
                yield index, delta
    finally:
        await _cancel(list(pending))
        for stream in streams:
            await stream.aclose()


async def _cancel(tasks: Sequence[asyncio.Future[Delta]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Item = tuple[int, Delta]


async def replay(first: Item, rest: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """Yield an item that was already taken from a stream, then the stream's others; closes the stream."""
    async with aclosing(rest):
        yield first
        async for item in rest:
            yield item
