"""How all generation endpoints answer a request: read it, generate, and write the answer.

A stream starts only when its first output has arrived, so an earlier error is a plain HTTP error with its
status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from fastapi import Request
from starlette.responses import JSONResponse, Response

from ernie_frontend.http.disconnect import EventStream, cancel_on_disconnect
from ernie_frontend.middleware.auth import client_salt
from ernie_frontend.middleware.request_log import RequestRecord, record_of
from ernie_frontend.routes.request_body import check_context, read_body
from ernie_frontend.routes.services import Services
from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter, answer_format, best
from ernie_frontend.translate.response_warnings import warning_header
from ernie_frontend.translate.sse import StreamWriter
from ernie_frontend.translate.structured_outputs import in_clients_words
from ernie_frontend.triton.output_streams import Item, OutputStream, collect, merge, rechunk
from ernie_wire.errors import EngineCrashed, ErnieError, InternalError, InvalidValue
from ernie_wire.messages import MAX_MEDIA_BYTES, GenerateRequest, Output
from ernie_wire.status import Description

logger = logging.getLogger(__name__)
Body = TypeVar("Body", bound=GenerationFields)


@dataclass(frozen=True)
class Endpoint(Generic[Body]):
    """The parts of an endpoint that differ from the others.

    Attributes:
        body: the schema of a request.
        id_prefix: prefix of the ids of answers.
        to_wire: returns the requests for the engine.
        warnings: returns what the client should know about a request that is answered.
        whole: returns the object of a whole answer, from one output for each choice.
        writer: returns the writer of a stream, given the number of answers.
    """

    body: type[Body]
    id_prefix: str
    to_wire: Callable[[Body, RequestContext], list[GenerateRequest]]
    warnings: Callable[[Body, RequestContext], tuple[str, ...]]
    whole: Callable[[ResponseContext, Sequence[Output], UsageCounter], dict[str, Any]]
    writer: Callable[[ResponseContext, int, UsageCounter], StreamWriter]


async def answer_request(request: Request, endpoint: Endpoint[Body]) -> Response:
    """Answer a generation request, whole or as a stream.

    Raises:
        ErnieError: the request is wrong, or cannot be answered.
    """
    services, record = Services.of(request), record_of(request.scope)
    body, num_bytes = await read_body(endpoint.body, request)
    model = await services.models.resolve(body.model)
    engine = model.entry.engine
    if engine is not None:  # while it starts, the engine itself checks what waits for it
        check_context(body, engine)
    answer_id = record.wire_id(endpoint.id_prefix, body.user)
    context = context_of(request, answer_id, engine)
    requests = await services.body_reader.offload(num_bytes, endpoint.to_wire, body, context)
    requests = await with_media(request, requests, body.take_media_urls())
    response = ResponseContext.of(
        body, answer_id, int(time.time()), model.public_name, endpoint.warnings(body, context)
    )
    headers = warning_header(response.warnings)
    usage = UsageCounter(body.num_candidates)
    streams = [_worded(services.triton.generate(model.entry.name, each), body) for each in requests]
    num_answers = len(requests)
    del requests  # the answer may take minutes, and media megabytes

    async def formatted() -> ResponseContext:
        # An engine without a description when the request came has one when it has answered.
        described = engine or (await services.models.resolve_again(body.model)).entry.engine
        return replace(response, form=answer_format(body, described))

    if body.stream:
        if body.max_streaming_response_tokens is not None:
            streams = [rechunk(stream, body.max_streaming_response_tokens) for stream in streams]

        async def begin() -> StreamWriter:
            return endpoint.writer(await formatted(), num_answers, usage)

        return await _stream(request, merge(streams), begin, usage, headers)
    answers = await cancel_on_disconnect(collect(streams), request.scope, request.receive)
    usage.add_all(answers)
    record.count(usage.num_input_tokens, usage.num_output_tokens, usage.num_drafts)
    chosen = best(answers, body.num_candidates, body.n or 1)
    return JSONResponse(endpoint.whole(await formatted(), chosen, usage), headers=headers)


async def _worded(stream: OutputStream, body: GenerationFields) -> OutputStream:
    """Yield the outputs of a generation; its error is about the fields that the client sent."""
    try:
        async with aclosing(stream):
            async for output in stream:
                yield output
    except InvalidValue as error:
        raise in_clients_words(error, body) from None


def context_of(request: Request, request_id: str, engine: Description | None) -> RequestContext:
    """Return what is known of a request in addition to its body; ``engine`` is None while it starts."""
    return RequestContext(
        request_id,
        engine.vocab_size if engine else None,
        Services.of(request).settings.max_answers,
        client_salt(request.scope),
        engine.modalities if engine else None,
        engine.limit_mm_per_prompt if engine else {},
        engine is None or engine.knows_tools,
    )


async def with_media(
    request: Request, requests: list[GenerateRequest], urls: Mapping[str, str]
) -> list[GenerateRequest]:
    """Return requests with the contents of the URLs that their messages refer to.

    Args:
        request: of the client, whose disconnect cancels the downloads.
        requests: all with the same prompt.
        urls: by their places in the body.

    Raises:
        ErnieError: a URL is wrong, or cannot be fetched; or the media are too large for this number of answers.
    """
    if not urls or requests[0].messages is None:
        return requests
    media = await cancel_on_disconnect(Services.of(request).media.fetch(urls), request.scope, request.receive)
    num_bytes = len(requests) * sum(map(len, media))  # each answer's request carries them
    if len(requests) > 1 and num_bytes > MAX_MEDIA_BYTES:
        raise InvalidValue(
            f"{len(requests)} answers need {num_bytes} bytes of images and videos; at most {MAX_MEDIA_BYTES}"
            " are allowed; send several requests with a smaller n",
            "n",
        )
    return [replace(each, media=media) for each in requests]


async def _stream(
    request: Request,
    items: AsyncGenerator[Item, None],
    begin: Callable[[], Awaitable[StreamWriter]],
    usage: UsageCounter,
    headers: Mapping[str, str],
) -> EventStream:
    """Return the event stream of an answer, after its first output has arrived; then ``begin`` is called.

    Raises:
        ErnieError: the generation failed before its first output, so HTTP can still have the error's status.
        RequestCancelled: the client disconnected before.
    """
    try:
        first = await cancel_on_disconnect(_first(items), request.scope, request.receive)
        writer = await begin()
    except BaseException:
        await items.aclose()
        raise
    return EventStream(events(writer, first, items, record_of(request.scope), usage), headers)


async def _first(items: AsyncGenerator[Item, None]) -> Item:
    async for item in items:
        return item
    raise EngineCrashed("the answer ended before it began; try again")


async def events(
    writer: StreamWriter,
    first: Item,
    rest: AsyncGenerator[Item, None],
    record: RequestRecord,
    usage: UsageCounter,
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a streamed answer, including those of an error.

    Args:
        writer: writes the events.
        first: the first output.
        rest: the other outputs; closed together with this generator.
        record: gets the tokens, and the error if there is one.
        usage: the writer's; each output is counted before it is written.
    """
    try:
        async with aclosing(rest):
            usage.add(*first)
            yield writer.events(*first)
            async for item in rest:
                usage.add(*item)
                yield writer.events(*item)
            yield writer.end()
    except Exception as error:
        if not isinstance(error, ErnieError):
            logger.exception("the stream of request %s failed", record.request_id)
            error = InternalError("an unexpected error in the server")
        record.failed_status, record.failed_code = error.status, error.code
        yield writer.fail(error)
    finally:
        record.count(usage.num_input_tokens, usage.num_output_tokens, usage.num_drafts)
