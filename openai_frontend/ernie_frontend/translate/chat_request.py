"""A chat request as ``GenerateRequest``s, one for each of the ``n`` answers.

The conversation is passed on unchanged, as JSON that only the engine reads. Its images and videos are fetched
later, by the URLs that the body has moved out of it (``ChatRequest.take_media_urls``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ernie_frontend.schema.chat import ChatMessage, ChatRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, refuse_unsupported
from ernie_frontend.translate.generate_request import RequestContext, generate_requests, sampling_parameters
from ernie_wire.checks import check_token_ids
from ernie_wire.conversation import check_message, thinking_switch
from ernie_wire.errors import InvalidValue, MissingParameter
from ernie_wire.media_parts import MEDIA_OPTIONS, MEDIA_PARTS, request_options
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
    messages = [_message(f"messages[{index}]", message) for index, message in enumerate(body.messages or ())]
    _check_media(body.messages or (), context)
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
    return GenerateRequest(context.request_id, messages=_conversation(body, messages))


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


def _message(where: str, message: ChatMessage) -> dict[str, Any]:
    """Return the fields of a message."""
    fields = {name: value for name in ChatMessage.model_fields if (value := getattr(message, name)) is not None}
    check_message(where, fields)
    content = message.content
    if isinstance(content, dict):
        fields["content"] = _part(content)
    elif isinstance(content, list):
        fields["content"] = [_part(part) for part in content]
    return fields


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """Return a content part; of a text only the fields that are used."""
    return {"type": "text", "text": part["text"]} if part["type"] == "text" else part


def _check_media(messages: Sequence[ChatMessage], context: RequestContext) -> None:
    """Check that the model reads the media of a conversation, and that they are not too many."""
    counts: Counter[str] = Counter()
    for index, message in enumerate(messages):
        content = message.content
        for place, part in enumerate(content if isinstance(content, list) else [content]):
            kind = MEDIA_PARTS.get(part["type"]) if isinstance(part, dict) else None
            if kind is None:
                continue
            where = f"messages[{index}].content" + (f"[{place}]" if isinstance(content, list) else "")
            _check_modality(where, kind, context.modalities)
            counts[kind] += 1
    for kind, count in counts.items():
        limit = context.media_limits.get(kind)
        if limit is not None and count > limit:
            raise InvalidValue(
                f"Too many {kind} items in prompt, got {count} but limit is {limit}; the operator sets it"
                " by --limit-mm-per-prompt",
                "messages",
            )


def _check_modality(where: str, kind: str, modalities: tuple[str, ...] | None) -> None:
    if modalities is None or kind in modalities:
        return
    read = " and ".join({"text": "text"}.get(each, f"{each}s") for each in modalities)
    raise InvalidValue(f"{where}: this model reads {read}, and no {kind}s; leave the {kind} out", "messages")


def _conversation(body: ChatRequest, messages: list[dict[str, Any]]) -> bytes:
    conversation: dict[str, Any] = {"messages": messages, "chat_template_kwargs": _template_options(body)}
    if body.mm_processor_kwargs is not None:
        conversation[MEDIA_OPTIONS] = body.mm_processor_kwargs
    request_options(conversation)  # only checked
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
