"""``POST /v1/chat/completions`` and ``POST /v1/completions``."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from ernie_frontend.routes.generation import Endpoint, answer_request
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.openapi import GENERATION_ERRORS, responses
from ernie_frontend.schema.responses import ChatCompletion, Completion
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_COMPLETIONS
from ernie_frontend.translate import chat_response, completion_response
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.response_warnings import chat_warnings, unknown_fields
from ernie_frontend.translate.sse import ChunkWriter

router = APIRouter()
CHAT = Endpoint(
    body=ChatRequest,
    id_prefix="chatcmpl",
    to_wire=chat_to_wire,
    warnings=chat_warnings,
    whole=chat_response.chat_completion,
    writer=partial(ChunkWriter, chat_response.CHUNKS),
)
COMPLETION = Endpoint(
    body=CompletionRequest,
    id_prefix="cmpl",
    to_wire=completion_to_wire,
    warnings=lambda body, _: unknown_fields(body, UNSUPPORTED_IN_COMPLETIONS),
    whole=completion_response.text_completion,
    writer=partial(ChunkWriter, completion_response.CHUNKS),
)


@router.post(
    "/v1/chat/completions", response_model=None, responses=responses(ChatCompletion, *GENERATION_ERRORS)
)
async def create_chat_completion(request: Request) -> Response:
    """Continue a conversation; each of the ``n`` answers is a generation of its own."""
    return await answer_request(request, CHAT)


@router.post("/v1/completions", response_model=None, responses=responses(Completion, *GENERATION_ERRORS))
async def create_completion(request: Request) -> Response:
    """Continue one prompt or several; each answer to each prompt is a generation of its own."""
    return await answer_request(request, COMPLETION)
