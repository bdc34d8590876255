"""A chat request as the ``GenerateRequest`` that the engine renders through the model's template.

Must not know the template: messages go out in one plain form, whatever form they came in.
"""

from __future__ import annotations

import json
from typing import Any

from ernie_frontend.schema.chat import ChatMessage, ChatRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, refuse_unsupported
from ernie_frontend.translate.sampling import sampling_parameters
from ernie_frontend.translate.thinking import resolve_thinking
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest

_ROLES = {"bot": "assistant", "developer": "system"}
# Names that the engine itself gives to the template.
_RESERVED_OPTIONS = ("messages", "tools", "chat_template", "add_generation_prompt")


def chat_to_wire(body: ChatRequest, request_id: str) -> GenerateRequest:
    """Return the request for the engine.

    Raises:
        InvalidValue: a value outside its limits, or something that is not served yet.
    """
    refuse_unsupported(body.model_extra, UNSUPPORTED_IN_CHAT)
    messages: dict[str, Any] = {
        "messages": [_plain_message(message) for message in body.messages],
        "chat_template_kwargs": _template_options(body),
    }
    if body.tools and body.tool_choice != "none":
        messages["tools"] = body.tools
    return GenerateRequest(
        request_id=request_id,
        messages=messages,
        stream=bool(body.stream),
        sampling=sampling_parameters(body, body.max_completion_tokens or body.max_tokens),
        return_prompt=bool(body.return_token_ids),
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
        plain["tool_calls"] = [_with_decoded_arguments(call) for call in message.tool_calls]
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


def _with_decoded_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call of the history with ``arguments`` as an object, if its text is JSON."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
