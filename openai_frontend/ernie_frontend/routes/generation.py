"""How every endpoint that generates answers a request: read it, generate, and write the answer.

A stream is held back until its first output is here, so that an error before it is a plain HTTP error with its
status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic

from fastapi import Request
from starlette.responses import JSONResponse, Response

from ernie_frontend.http.disconnect import EventStream, cancel_on_disconnect
from ernie_frontend.middleware.auth import client_salt
from ernie_frontend.middleware.request_log import RequestRecord, record_of
from ernie_frontend.routes.request_body import Body, check_context, read_body
from ernie_frontend.routes.services import Services
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter, best
from ernie_frontend.translate.sse import StreamWriter
from ernie_frontend.triton.output_streams import Item, collect, merge, prompt_only, rechunk
from ernie_wire.errors import EngineCrashed, ErnieError, InternalError
from ernie_wire.messages import GenerateRequest, Output

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint(Generic[Body]):
    """What one endpoint does in its own way.

    Attributes:
        body: the schema of a request.
        id_prefix: what the ids of answers begin with.
        to_wire: makes the requests for the engine.
        whole: makes the object of a whole answer of its header, an output for each choice, and the tokens.
        writer: makes the writer of a stream of its header, the number of answers and the count of tokens.
    """

    body: type[Body]
    id_prefix: str
    to_wire: Callable[[Body, RequestContext], list[GenerateRequest]]
    whole: Callable[[ResponseContext, Sequence[Output], UsageCounter], dict[str, Any]]
    writer: Callable[[ResponseContext, int, UsageCounter], StreamWriter]


async def answer_request(request: Request, endpoint: Endpoint[Body]) -> Response:
    """Answer a request that generates, whole or as a stream.

    Raises:
        ErnieError: what is wrong with the request, or why it cannot be answered.
    """
    services, record = Services.of(request), record_of(request.scope)
    body, num_bytes = await read_body(endpoint.body, request)
    model = await services.models.resolve(body.model)
    engine = model.entry.engine
    if engine is not None:  # while it starts, the engine itself checks what waits for it
        check_context(body, engine)
    answer_id = record.wire_id(endpoint.id_prefix, body.user)
    context = RequestContext(
        answer_id,
        engine.vocab_size if engine else None,
        services.settings.max_answers,
        client_salt(request.scope),
        engine.modalities if engine else (),
    )
    wires = await services.body_reader.offload(num_bytes, endpoint.to_wire, body, context)
    header = ResponseContext.of(body, answer_id, int(time.time()), model.public_name)
    count = UsageCounter(body.num_candidates)
    streams = [services.triton.generate(model.entry.name, wire) for wire in wires]
    if body.max_tokens == 0:
        streams = [prompt_only(stream) for stream in streams]
    if body.stream:
        if body.max_streaming_response_tokens is not None:
            streams = [rechunk(stream, body.max_streaming_response_tokens) for stream in streams]
        return await _stream(request, endpoint.writer(header, len(wires), count), merge(streams), count)
    answers = await cancel_on_disconnect(collect(streams), request.scope, request.receive)
    count.add_all(answers)
    record.count(count.num_input_tokens, count.num_output_tokens)
    chosen = best(answers, body.num_candidates, body.n or 1)
    return JSONResponse(endpoint.whole(header, chosen, count))


async def _stream(
    request: Request, writer: StreamWriter, items: AsyncGenerator[Item, None], count: UsageCounter
) -> EventStream:
    """Return the event stream of an answer, once its first output is here.

    Raises:
        ErnieError: the generation failed before its first output; it becomes a plain HTTP error.
        RequestCancelled: the client went away before.
    """
    try:
        first = await cancel_on_disconnect(_first(items), request.scope, request.receive)
    except BaseException:
        await items.aclose()
        raise
    return EventStream(events(writer, first, items, record_of(request.scope), count))


async def _first(items: AsyncGenerator[Item, None]) -> Item:
    async for item in items:
        return item
    raise EngineCrashed("the answer ended before it began; try again")


async def events(
    writer: StreamWriter,
    first: Item,
    rest: AsyncGenerator[Item, None],
    record: RequestRecord,
    count: UsageCounter,
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a streamed answer, also of its end by an error.

    Args:
        writer: writes them.
        first: what was already taken from ``rest``.
        rest: the outputs; closed when this generator is.
        record: is told the tokens and the error, if there is one.
        count: the writer's; each output is counted before it is written.
    """
    try:
        async with aclosing(rest):
            count.add(*first)
            yield writer.events(*first)
            async for item in rest:
                count.add(*item)
                yield writer.events(*item)
            yield writer.end()
    except Exception as error:
        if not isinstance(error, ErnieError):
            logger.exception("the stream of request %s failed", record.request_id)
            error = InternalError("something went wrong on our side")
        record.fail(error)
        yield writer.fail(error)
    finally:
        record.count(count.num_input_tokens, count.num_output_tokens)
