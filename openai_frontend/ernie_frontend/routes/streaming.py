"""The streamed answer of either endpoint.

Held back until the first delta is here, so that an error before it is a plain HTTP error with its status.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import Request

from ernie_frontend.disconnect import EventStream, unless_disconnected
from ernie_frontend.generation import Deltas, Item, merge, replay
from ernie_frontend.request_log import RequestRecord, record_of
from ernie_frontend.translate.answer import AnswerHeader, UsageCount
from ernie_frontend.translate.sse import ChunkShape, events
from ernie_wire.errors import EngineCrashed


async def stream_answer(
    request: Request,
    header: AnswerHeader,
    shape: ChunkShape,
    streams: Sequence[Deltas],
    count: UsageCount,
) -> EventStream:
    """Return the event stream of an answer, once its first delta is here.

    Args:
        request: of the client.
        header: what every chunk carries.
        shape: how the chunks of the endpoint look.
        streams: the generations, one for each choice.
        count: counts the tokens; new.

    Raises:
        ErnieError: the generation failed before its first delta; it becomes a plain HTTP error.
        RequestCancelled: the client went away before.
    """
    deltas = merge(streams)
    try:
        first = await unless_disconnected(_first(deltas), request.scope, request.receive)
    except BaseException:
        await deltas.aclose()
        raise
    record = record_of(request.scope)
    sent = events(header, shape, replay(first, deltas), len(streams), count, record.fail)
    return EventStream(_counted(record, sent, count))


async def _first(deltas: AsyncGenerator[Item, None]) -> Item:
    async for item in deltas:
        return item
    raise EngineCrashed("the answer ended before it began; try again")


async def _counted(
    record: RequestRecord, sent: AsyncGenerator[bytes, None], count: UsageCount
) -> AsyncGenerator[bytes, None]:
    """Yield the events, and note the tokens for the log line however the stream ends."""
    try:
        async with aclosing(sent):
            async for event in sent:
                yield event
    finally:
        record.count(count.num_input_tokens, count.num_output_tokens)
