"""``POST /v1/chat/completions``."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from ernie_frontend.routes.generation import Endpoint, answer_request
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.openapi import GENERATION_ERRORS, responses
from ernie_frontend.schema.responses import ChatCompletion
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.chat_response import CHUNKS, chat_completion
from ernie_frontend.translate.sse import ChunkWriter

router = APIRouter()
CHAT = Endpoint(
    body=ChatRequest,
    id_prefix="chatcmpl",
    to_wire=chat_to_wire,
    whole=chat_completion,
    writer=partial(ChunkWriter, CHUNKS),
)


@router.post(
    "/v1/chat/completions", response_model=None, responses=responses(ChatCompletion, *GENERATION_ERRORS)
)
async def create_chat_completion(request: Request) -> Response:
    """Continue a conversation; each of the ``n`` answers is a generation of its own."""
    return await answer_request(request, CHAT)
