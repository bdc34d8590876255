"""``POST /v1/completions``."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from ernie_frontend.routes.generation import Endpoint, answer_request
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.openapi import GENERATION_ERRORS, responses
from ernie_frontend.schema.responses import Completion
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.completion_response import CHUNKS, text_completion
from ernie_frontend.translate.sse import ChunkWriter

router = APIRouter()
COMPLETION = Endpoint(
    body=CompletionRequest,
    id_prefix="cmpl",
    to_wire=completion_to_wire,
    whole=text_completion,
    writer=partial(ChunkWriter, CHUNKS),
)


@router.post("/v1/completions", response_model=None, responses=responses(Completion, *GENERATION_ERRORS))
async def create_completion(request: Request) -> Response:
    """Continue one prompt or several; each answer to each prompt is a generation of its own."""
    return await answer_request(request, COMPLETION)
