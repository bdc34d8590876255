"""The messages of a chat request, checked and brought into the form that templates expect.

Templates want ``content`` to be a string, thinking to be ``reasoning_content``, tool arguments to be objects,
and fields without a value to be absent; clients send lists of parts, other names, JSON strings, null and empty
lists of calls. Roles that only other systems know are mapped: ``bot`` is an assistant, ``developer`` a system.
"""

from __future__ import annotations

from typing import Any

from ernie_wire.conversation import REASONING_FIELDS, check_message
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "tool": "tool",
}


def normalize_messages(messages: object) -> list[dict[str, Any]]:
    """Return checked messages, each with a known role and a string as content.

    Raises:
        InvalidRequest: not a list of messages, an unknown role, content that is not text, a user's message
            without content, or a wrong tool call.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidValue(
            "messages must be a JSON object with a list in its field messages, of at least one message",
            "messages",
        )
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: object) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise InvalidValue(f"{where} is {type(message).__name__}; it must be an object", "messages")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidValue(f"{where}.role is {role!r}; known: {', '.join(_ROLES)}", "messages")
    check_message(where, message)
    fields = {name: value for name, value in message.items() if value is not None}
    normal = {**fields, "role": _ROLES[role], "content": _text(where, message.get("content"))}
    reasoning = next((fields[name] for name in REASONING_FIELDS if fields.get(name)), None)
    if reasoning is not None:
        normal["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if calls:
        normal["tool_calls"] = [_tool_call(call) for call in calls]
    else:
        normal.pop("tool_calls", None)
    return normal


def _text(where: str, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(_part_text(where, part) for part in parts)


def _part_text(where: str, part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise InvalidValue(f"{where}.content holds {type(part).__name__}; it must be text", "messages")
    if part.get("type") != "text":
        raise InvalidValue(
            f"{where}.content has a part of type {part.get('type')!r}; this model takes only text", "messages"
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidValue(f"{where}.content has a text part whose text is {text!r}", "messages")
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
