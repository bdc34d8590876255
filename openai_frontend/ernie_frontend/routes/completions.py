"""``POST /v1/completions``."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ernie_frontend.auth import client_salt
from ernie_frontend.disconnect import unless_disconnected
from ernie_frontend.generation import collect_all, gather, only_prompt
from ernie_frontend.request_log import record_of
from ernie_frontend.routes.reading import check_context, read_body
from ernie_frontend.routes.streaming import stream_answer
from ernie_frontend.schema.answers import Completion
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.openapi import GENERATION_ERRORS, responses
from ernie_frontend.services import Services
from ernie_frontend.translate import sse
from ernie_frontend.translate.answer import AnswerHeader, UsageCount
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.completion_response import best, text_completion

router = APIRouter()


@router.post("/v1/completions", response_model=None, responses=responses(Completion, *GENERATION_ERRORS))
async def create_completion(request: Request) -> Response:
    """Continue one prompt or several; each answer to each prompt is a generation of its own."""
    services, record = Services.of(request), record_of(request.scope)
    body, num_bytes = await read_body(CompletionRequest, request)
    model = await services.models.resolve(body.model)
    check_context(body, model.entry)
    answer_id = record.wire_id("cmpl", body.user)
    limits = (model.entry.vocab_size, services.settings.max_answers, client_salt(request.scope))
    wires = await services.large_bodies.beside_loop(num_bytes, completion_to_wire, body, answer_id, *limits)
    header = AnswerHeader.of(
        body,
        answer_id,
        int(time.time()),
        model.public_name,
        num_logprobs=body.num_logprobs,
        has_echo=bool(body.echo),
    )
    count = UsageCount(body.num_candidates)
    streams = [services.triton.generate(model.entry.name, wire) for wire in wires]
    if body.max_tokens == 0:
        streams = [only_prompt(stream) for stream in streams]
    if body.stream:
        if body.max_streaming_response_tokens is not None:
            streams = [gather(stream, body.max_streaming_response_tokens) for stream in streams]
        return await stream_answer(request, header, sse.COMPLETION, streams, count)
    answers = await unless_disconnected(collect_all(streams), request.scope, request.receive)
    count.add_all(answers)
    record.count(count.num_input_tokens, count.num_output_tokens)
    chosen = best(answers, body.num_candidates, body.n or 1)
    return JSONResponse(text_completion(header, chosen, count.to_json()))
