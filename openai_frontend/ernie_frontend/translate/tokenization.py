"""Requests that only process a prompt, and their answers: tokenize, detokenize."""

from __future__ import annotations

from typing import Any

from ernie_frontend.schema.tokenization import DetokenizeRequest, TokenizeRequest
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.translate.openai_logprobs import token_text
from ernie_wire.checks import check_token_ids
from ernie_wire.errors import InvalidValue, MissingParameter
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.sampling import SamplingParameters
from ernie_wire.status import Description


def tokenize_to_wire(body: TokenizeRequest, context: RequestContext) -> GenerateRequest:
    """Return the request for the engine.

    Raises:
        InvalidRequest: no prompt or two, or a conversation that chat would refuse.
    """
    has_ids_or_messages = body.messages is not None or body.prompt_token_ids is not None
    if body.prompt is None and not has_ids_or_messages:
        raise MissingParameter("prompt or messages is missing", "prompt")
    if body.prompt is not None and has_ids_or_messages:
        raise InvalidValue("prompt and messages are both given; send one of them", "prompt")
    if body.prompt is None:
        prompt, *_ = chat_to_wire(body, context)
    else:
        prompt = GenerateRequest(context.request_id, body.prompt)
    return _prompt_only(prompt, context, has_texts=bool(body.return_token_strs))


def detokenize_to_wire(body: DetokenizeRequest, context: RequestContext) -> GenerateRequest:
    """Return the request for the engine.

    Raises:
        InvalidValue: a token id that the model does not have.
    """
    check_token_ids("tokens", body.tokens, context.highest_token_id)
    if not body.tokens:  # which the wire does not have as token ids
        return _prompt_only(GenerateRequest(context.request_id, ""), context)
    return _prompt_only(GenerateRequest(context.request_id, input_ids=tuple(body.tokens)), context)


def tokenized(body: TokenizeRequest, output: Output, engine: Description | None) -> dict[str, Any]:
    """Return the answer to ``POST /tokenize``; ``engine`` is None while it starts."""
    texts = [token_text(each) for each in output.prompt_bytes or ()]
    return {
        "count": output.num_input_tokens,
        "max_model_len": engine and engine.max_model_len,
        "tokens": list(output.prompt_ids or ()),
        "token_strs": texts if body.return_token_strs else None,
    }


def detokenized(_body: DetokenizeRequest, output: Output, _engine: Description | None) -> dict[str, Any]:
    """Return the answer to ``POST /detokenize``."""
    return {"prompt": output.prompt_text or ""}


def _prompt_only(
    prompt: GenerateRequest, context: RequestContext, *, has_texts: bool = False
) -> GenerateRequest:
    """Return a request for the ids and the text of a prompt, and for the texts of its tokens if needed."""
    return GenerateRequest(
        context.request_id,
        text_input=prompt.text_input,
        input_ids=prompt.input_ids,
        messages=prompt.messages,
        media=prompt.media,
        sampling=SamplingParameters(max_tokens=0),
        return_token_ids=True,
        return_prompt_bytes=has_texts,
    )
