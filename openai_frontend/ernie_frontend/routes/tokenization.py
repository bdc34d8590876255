"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``: vLLM's paths, without ``/v1``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ernie_frontend.http.disconnect import cancel_on_disconnect
from ernie_frontend.middleware.request_log import record_of
from ernie_frontend.routes.generation import context_of, with_media
from ernie_frontend.routes.request_body import read_body
from ernie_frontend.routes.services import Services
from ernie_frontend.schema.openapi import GENERATION_ERRORS, TOKENIZER_INFO_PATH, responses
from ernie_frontend.schema.responses import DetokenizedText, TokenizedPrompt, TokenizerInfo
from ernie_frontend.schema.tokenization import DetokenizeRequest, TokenizeRequest
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.translate.response_warnings import chat_warnings, unknown_fields, warning_header
from ernie_frontend.translate.tokenization import (
    detokenize_to_wire,
    detokenized,
    tokenize_to_wire,
    tokenized,
)
from ernie_frontend.triton.output_streams import collect
from ernie_wire.errors import InvalidValue, ModelUnavailable
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.status import Description

Body = TypeVar("Body", TokenizeRequest, DetokenizeRequest)
router = APIRouter()


@router.post("/tokenize", response_model=None, responses=responses(TokenizedPrompt, *GENERATION_ERRORS))
async def tokenize(request: Request) -> Response:
    """Return the tokens of a raw prompt, or of the prompt that the chat template makes of a conversation."""
    return await _answer(request, TokenizeRequest, tokenize_to_wire, tokenized, chat_warnings)


@router.post("/detokenize", response_model=None, responses=responses(DetokenizedText, *GENERATION_ERRORS))
async def detokenize(request: Request) -> Response:
    """Return the text of token ids."""
    return await _answer(
        request,
        DetokenizeRequest,
        detokenize_to_wire,
        detokenized,
        lambda body, _: unknown_fields(body, {}),
    )


@router.get(TOKENIZER_INFO_PATH, response_model=None, responses=responses(TokenizerInfo, 401, 404, 503))
async def show_tokenizer_info(request: Request, model: str | None = None) -> dict[str, Any]:
    """Return the special tokens and the chat template of a model; of the default model if none is named."""
    engine = (await Services.of(request).models.resolve(model)).entry.engine
    if engine is None:
        raise ModelUnavailable("the engine is starting, and its tokenizer is not known yet; try again later")
    names = ("eos_token", "bos_token", "pad_token")
    return {
        **dict.fromkeys(names),
        **engine.special_tokens,
        "chat_template": engine.chat_template,
        "model_max_length": engine.max_model_len,
    }


async def _answer(
    request: Request,
    kind: type[Body],
    to_wire: Callable[[Body, RequestContext], GenerateRequest],
    to_answer: Callable[[Body, Output, Description | None], dict[str, Any]],
    warnings: Callable[[Body, RequestContext], tuple[str, ...]],
) -> Response:
    """Answer a request that only processes a prompt."""
    services, record = Services.of(request), record_of(request.scope)
    body, num_bytes = await read_body(kind, request)
    model = await services.models.resolve(body.model)
    engine = model.entry.engine
    if engine is not None and not engine.has_tokenizer:
        raise InvalidValue(
            "the directory of this model has no tokenizer: it has token ids and no texts", "model"
        )
    context = context_of(request, record.wire_id("tokenize"), engine)
    prompt = await services.body_reader.offload(num_bytes, to_wire, body, context)
    if isinstance(body, TokenizeRequest):
        [prompt] = await with_media(request, [prompt], body.take_media_urls())
    stream = services.triton.generate(model.entry.name, prompt)
    [output] = await cancel_on_disconnect(collect([stream]), request.scope, request.receive)
    record.count(output.num_input_tokens, 0)
    answer = to_answer(body, output, engine)
    return JSONResponse(answer, headers=warning_header(warnings(body, context)))
