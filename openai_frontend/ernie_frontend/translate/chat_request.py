"""A chat request as ``GenerateRequest``s, one for each of the ``n`` answers.

Must not know the template: messages go out in one plain form, whatever form they came in.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import replace
from typing import Any

from ernie_frontend.schema.chat import ChatMessage, ChatRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, refuse_unsupported
from ernie_frontend.translate.sampling import check_token_ids, sampling_parameters, with_seed_offset
from ernie_frontend.translate.thinking import resolve_thinking
from ernie_wire.errors import InvalidValue, MissingParameter
from ernie_wire.messages import GenerateRequest

logger = logging.getLogger(__name__)

_ROLES = {"bot": "assistant", "developer": "system"}
# Names that the engine itself gives to the template.
_RESERVED_OPTIONS = ("messages", "tools", "chat_template", "add_generation_prompt")


def chat_to_wire(
    body: ChatRequest, request_id: str, vocab_size: int | None, max_answers: int, client_salt: str = ""
) -> list[GenerateRequest]:
    """Return the requests for the engine.

    Args:
        body: the checked request.
        request_id: the id of a single answer; of several each has this and its number.
        vocab_size: token ids must be below it; None if the model does not tell now.
        max_answers: most answers that one request may ask for.
        client_salt: what keeps the clients' parts of the prefix cache apart.

    Raises:
        InvalidRequest: a value outside its limits, something that is not served, or no prompt.
    """
    refuse_unsupported(body.model_extra, UNSUPPORTED_IN_CHAT)
    n = body.n or 1
    if n > max_answers:
        raise InvalidValue(f"n is {n}; at most {max_answers} answers are made to one request", "n")
    sampling = sampling_parameters(body, body.max_completion_tokens or body.max_tokens, body.num_logprobs)
    request = GenerateRequest(
        request_id=request_id,
        **_prompt(body, vocab_size),
        stream=bool(body.stream),
        sampling=sampling,
        return_token_ids=bool(body.return_token_ids),
        priority=body.priority or 0,
        cache_salt=client_salt + (body.cache_salt or ""),
    )
    if n == 1:
        return [request]
    return [
        replace(request, request_id=f"{request_id}-{index}", sampling=with_seed_offset(sampling, index))
        for index in range(n)
    ]


def _prompt(body: ChatRequest, vocab_size: int | None) -> dict[str, Any]:
    """Return the prompt as the one field of ``GenerateRequest`` that holds it."""
    if body.prompt_token_ids is not None:
        check_token_ids("prompt_token_ids", body.prompt_token_ids, vocab_size)
        begun = body.completion_token_ids or []
        check_token_ids("completion_token_ids", begun, vocab_size)
        return {"input_ids": (*body.prompt_token_ids, *begun)}
    if body.completion_token_ids:
        raise InvalidValue(
            "completion_token_ids go on from a prompt of token ids; send prompt_token_ids too "
            "(return_token_ids gives them)",
            "completion_token_ids",
        )
    if body.messages is None:
        raise MissingParameter("messages is missing", "messages")
    if not body.messages:
        raise InvalidValue("messages is empty; it must have at least one message", "messages")
    if body.disable_chat_template:
        return {"text_input": _plain_text(body.messages[0].content)}
    return {"messages": _conversation(body, body.messages)}


def _conversation(body: ChatRequest, messages: list[ChatMessage]) -> dict[str, Any]:
    conversation: dict[str, Any] = {
        "messages": [_plain_message(message) for message in messages],
        "chat_template_kwargs": _template_options(body),
    }
    if body.tools and body.tool_choice != "none":
        conversation["tools"] = body.tools
        _warn_of_tools()
    for name, value in conversation.items():
        _check_finite(name, value)
    return conversation


def _check_finite(name: str, value: object) -> None:
    """Check a part of the conversation that may hold any JSON, which goes to the engine as JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise InvalidValue(
            f"{name} holds a number that JSON does not have: NaN, an infinite one, or one above 1.8e308", name
        ) from None


@functools.cache
def _warn_of_tools() -> None:
    """Say once what becomes of tools: the request succeeds, and its sender may expect more."""
    logger.warning(
        "tools are given to the model's template, which may ignore them; calls in answers stay text"
        " (docs/openai.md)"
    )


def _template_options(body: ChatRequest) -> dict[str, Any]:
    options = dict(body.chat_template_kwargs or {})
    for name in _RESERVED_OPTIONS:
        if name in options:
            raise InvalidValue(f"chat_template_kwargs may not hold {name}", "chat_template_kwargs")
    thinking = resolve_thinking(body)
    if thinking is not None:
        options["enable_thinking"] = thinking
    return options


def _plain_message(message: ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role),
        "content": _plain_text(message.content),
    }
    if message.tool_calls:
        plain["tool_calls"] = message.tool_calls
    for name in ("name", "reasoning_content", "tool_call_id"):
        value = getattr(message, name)
        if value is not None:
            plain[name] = value
    return plain


def _plain_text(content: str | dict[str, Any] | list[dict[str, Any]] | None) -> str:
    """Return content as one string: a text model's template knows neither parts nor null."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(part["text"] for part in parts)
