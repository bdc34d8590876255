"""The messages of a chat request, checked and brought into one form.

Templates want ``content`` to be a string (or parts, if it has media: ``template_content.py``), thinking to be
``reasoning_content``, tool arguments to be objects, and fields without a value to be absent; clients send lists
of parts, other names, JSON strings, null and empty lists of calls. Roles that only other systems know are
mapped: ``bot`` is an assistant, ``developer`` a system.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ernie_wire.conversation import REASONING_FIELDS, check_message
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object
from ernie_wire.media_parts import MEDIA_PARTS, MediaPart, media_part

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "tool": "tool",
}

Content = str | list[str | MediaPart]
"""Of a message: its text; with media, its parts in their order."""


def normalize_messages(
    messages: object, num_media: int = 0, modalities: Collection[str] = ("text",)
) -> list[dict[str, Any]]:
    """Return checked messages, each with a known role and ``Content``.

    Args:
        messages: of the request.
        num_media: buffers that parts may refer to.
        modalities: what the model reads.

    Raises:
        InvalidRequest: not a list of messages, an unknown role, content that the model does not read, a part
            that refers to no buffer, a user's message without content, or a wrong tool call.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidValue(
            "messages must be a JSON object with a list in its field messages, of at least one message",
            "messages",
        )
    parts = _PartReader(num_media, modalities)
    normal = [_message(f"messages[{index}]", message, parts) for index, message in enumerate(messages)]
    _check_order(normal)
    return normal


def media_of(messages: list[dict[str, Any]]) -> list[MediaPart]:
    """Return the media of normalized messages in their order."""
    contents = (message["content"] for message in messages)
    return [part for content in contents for part in content if isinstance(part, MediaPart)]


def _check_order(messages: list[dict[str, Any]]) -> None:
    """Refuse media of the system after others: templates that write the system first would mix them up."""
    with_media = [message["role"] for message in messages if media_of([message])]
    if "system" in with_media[1:]:
        raise InvalidValue(
            "messages have media in a system message after media in another one; a system message with media "
            "comes first",
            "messages",
        )


def _message(where: str, message: object, parts: _PartReader) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InvalidValue(f"{where} is {type(message).__name__}; it must be an object", "messages")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidValue(f"{where}.role is {role!r}; known: {', '.join(_ROLES)}", "messages")
    check_message(where, message)
    fields = {name: value for name, value in message.items() if value is not None}
    normal = {**fields, "role": _ROLES[role], "content": parts.content(where, message.get("content"))}
    reasoning = next((fields[name] for name in REASONING_FIELDS if fields.get(name)), None)
    if reasoning is not None:
        normal["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if calls:
        normal["tool_calls"] = [_tool_call(call) for call in calls]
    else:
        normal.pop("tool_calls", None)
    return normal


class _PartReader:
    """Reads the content of messages.

    Args:
        num_media: buffers that parts may refer to.
        modalities: what the model reads.
    """

    def __init__(self, num_media: int, modalities: Collection[str]) -> None:
        self._num_media = num_media
        self._modalities = modalities

    def content(self, where: str, content: object) -> Content:
        """Return the content of a message; null is an empty text."""
        if content is None:
            return ""
        if isinstance(content, str):
            return content
        given = content if isinstance(content, list) else [content]
        parts = [self._part(f"{where}.content[{index}]", part) for index, part in enumerate(given)]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else parts

    def _part(self, where: str, part: object) -> str | MediaPart:
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            raise InvalidValue(f"{where} is {type(part).__name__}; it must be text", "messages")
        kind = part.get("type")
        if isinstance(kind, str) and MEDIA_PARTS.get(kind) in self._modalities:
            return media_part(where, part, self._num_media)
        if kind != "text":
            read = " and ".join(f"{each}s" if each != "text" else each for each in self._modalities)
            only = "only text" if read == "text" else f"{read} only"
            raise InvalidValue(f"{where} is a part of type {kind!r}; this model takes {only}", "messages")
        text = part.get("text")
        if not isinstance(text, str):
            raise InvalidValue(f"{where} is a text part whose text is {text!r}", "messages")
        return text


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call with its arguments as an object, if they are the JSON text of one, or missing.

    Text that is nested too deeply stays text: what a template does with it must not depend on the depth of the
    stack.
    """
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = read_json_object(arguments, "arguments")
        except InvalidValue:
            return call
    return {**call, "function": {**function, "arguments": arguments}}
