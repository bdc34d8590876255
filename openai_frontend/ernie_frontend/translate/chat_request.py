"""A chat request as ``GenerateRequest``s, one for each of the ``n`` answers.

The conversation is passed on unchanged, as JSON that only the engine reads, and its media as buffers next to
it.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import unquote_to_bytes

from ernie_frontend.schema.chat import ChatMessage, ChatRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, refuse_unsupported
from ernie_frontend.translate.generate_request import RequestContext, generate_requests, sampling_parameters
from ernie_wire.checks import check_token_ids
from ernie_wire.conversation import check_message, thinking_switch
from ernie_wire.errors import InvalidValue, MissingParameter
from ernie_wire.media_parts import MEDIA_PARTS
from ernie_wire.messages import GenerateRequest

# Fields that determine how the prompt ends.
_FLAGS = ("add_generation_prompt", "continue_final_message")
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_THINKING_TYPES = {"enabled": True, "disabled": False}  # the others leave it to the model
# Variables of the template that the engine sets.
_RESERVED_OPTIONS = ("messages", "tools", "chat_template", *_FLAGS)


def chat_to_wire(body: ChatRequest, context: RequestContext) -> list[GenerateRequest]:
    """Return the requests for the engine.

    Raises:
        InvalidRequest: a value outside its limits, an unsupported field, or no prompt.
    """
    refuse_unsupported(body, UNSUPPORTED_IN_CHAT)
    if body.num_candidates > context.max_answers:
        raise InvalidValue(
            f"n is {body.num_candidates}; at most {context.max_answers} answers per request are allowed",
            "n",
        )
    sampling = sampling_parameters(body, body.max_completion_tokens or body.max_tokens, body.num_logprobs)
    tools, prompt = body.tool_request, _prompt(body, context)
    if tools is not None and tools.is_required and prompt.messages is None:
        raise InvalidValue(
            "tool_choice needs messages and the chat template; leave it out, or prompt_token_ids and "
            "disable_chat_template",
            "tool_choice",
        )
    return generate_requests(body, context, [prompt], sampling)


def _prompt(body: ChatRequest, context: RequestContext) -> GenerateRequest:
    media: list[bytes] = []
    messages = [
        _message(f"messages[{index}]", message, context.modalities, media)
        for index, message in enumerate(body.messages or ())
    ]
    if body.prompt_token_ids is not None:
        begun = body.completion_token_ids or []
        check_token_ids("prompt_token_ids", body.prompt_token_ids, context.highest_token_id)
        check_token_ids("completion_token_ids", begun, context.highest_token_id)
        return GenerateRequest(context.request_id, input_ids=(*body.prompt_token_ids, *begun))
    if body.completion_token_ids:
        raise InvalidValue(
            "completion_token_ids need a prompt of token ids; send prompt_token_ids, too "
            "(return_token_ids gives them)",
            "completion_token_ids",
        )
    if body.messages is None:
        raise MissingParameter("messages is missing", "messages")
    if not body.messages:
        raise InvalidValue("messages is empty; it must have at least one message", "messages")
    if body.disable_chat_template:
        return GenerateRequest(context.request_id, text_input=_first_text(body.messages[0].content))
    return GenerateRequest(context.request_id, messages=_conversation(body, messages), media=tuple(media))


def _first_text(content: str | dict[str, Any] | list[dict[str, Any]] | None) -> str:
    """Return the content of a message that is used as the raw prompt."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if part["type"] != "text":
            raise InvalidValue(
                f"a part of type {part['type']!r} needs the chat template; leave disable_chat_template out",
                "disable_chat_template",
            )
    return "".join(part["text"] for part in parts)


def _message(
    where: str, message: ChatMessage, modalities: tuple[str, ...], media: list[bytes]
) -> dict[str, Any]:
    """Return the fields of a message, with its media moved to ``media``."""
    fields = {name: value for name in ChatMessage.model_fields if (value := getattr(message, name)) is not None}
    check_message(where, fields)
    where += ".content"
    content = message.content
    if isinstance(content, dict):
        fields["content"] = _part(where, content, modalities, media)
    elif isinstance(content, list):
        fields["content"] = [_part(where, part, modalities, media) for part in content]
    return fields


def _part(where: str, part: dict[str, Any], modalities: tuple[str, ...], media: list[bytes]) -> dict[str, Any]:
    """Return a content part; of a text only the fields that are used."""
    kind = part["type"]
    if kind == "text":
        return {"type": kind, "text": part["text"]}
    if MEDIA_PARTS[kind] not in modalities:
        raise InvalidValue(
            f"{where}: a part of type {kind!r} is not supported yet; send text parts only", "content"
        )
    described = part.get(kind)
    url = described.get("url") if isinstance(described, dict) else None
    if not isinstance(described, dict) or not isinstance(url, str):
        raise InvalidValue(f'{where}: a part of type {kind!r} needs {kind}: {{"url": "data:..."}}', "content")
    media.append(_data_of(where, url))
    others = {name: value for name, value in described.items() if name != "url"}
    return {**part, kind: {**others, "media": len(media) - 1}}


def _data_of(where: str, url: str) -> bytes:
    """Return the content of a data: URL (RFC 2397); others are refused, as fetching them is not safe."""
    header, comma, data = url.partition(",")
    scheme, _, form = header.partition(":")
    if scheme.lower() != "data" or not comma:
        raise InvalidValue(
            f"{where}: a URL begins with {url[:20]!r}; send the data itself, data:...", "content"
        )
    if not form.lower().endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise InvalidValue(f"{where}: a data: URL is not base64: {error}", "content") from None


def _conversation(body: ChatRequest, messages: list[dict[str, Any]]) -> bytes:
    conversation: dict[str, Any] = {"messages": messages, "chat_template_kwargs": _template_options(body)}
    conversation |= {name: flag for name in _FLAGS if (flag := getattr(body, name)) is not None}
    conversation |= {name: value for name in _TOOL_FIELDS if (value := getattr(body, name)) is not None}
    try:
        return json.dumps(conversation, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        for name, value in conversation.items():
            _check_finite(name, value)
        raise


def _check_finite(name: str, value: object) -> None:
    """Raise InvalidValue if a value holds a number that JSON does not have."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise InvalidValue(
            f"{name} holds a number that JSON does not have: NaN, an infinite one, or one above 1.8e308", name
        ) from None


def _template_options(body: ChatRequest) -> dict[str, Any]:
    options = dict(body.chat_template_kwargs or {})
    for name in _RESERVED_OPTIONS:
        if name in options:
            raise InvalidValue(f"chat_template_kwargs may not hold {name}", "chat_template_kwargs")
    options |= _thinking_options(body)
    return options


def _thinking_options(body: ChatRequest) -> dict[str, Any]:
    """Return the variables of the template about thinking.

    The first spelling of a switch that is given decides:

        1. chat_template_kwargs.enable_thinking
        2. enable_thinking at the top level, an alias of the first
        3. metadata.enable_thinking, FastDeploy's legacy carrier
        4. thinking.type, other servers' form
        5. chat_template_kwargs.options.thinking_mode
        6. reasoning_effort "none"

    Raises:
        InvalidValue: a switch that is neither a boolean nor "true" or "false".
    """
    kwargs, metadata = body.chat_template_kwargs or {}, body.metadata or {}
    of_others = _THINKING_TYPES.get(body.thinking.type) if body.thinking is not None else None
    switches = (
        kwargs.get("enable_thinking"),
        body.enable_thinking,
        metadata.get("enable_thinking"),
        of_others,
    )
    given: dict[str, Any] = {
        "enable_thinking": next((each for each in switches if each is not None), None),
        "reasoning_effort": kwargs.get("reasoning_effort", body.reasoning_effort),
    }
    given["enable_thinking"] = thinking_switch({**kwargs, **given})
    return {name: value for name, value in given.items() if value is not None}
