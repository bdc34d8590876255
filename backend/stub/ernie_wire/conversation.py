"""Rules of a conversation's fields: the frontend checks them before it sends, and the engine for all clients.

The fields are those of OpenAI's chat completions; docs/tools.md and docs/thinking.md describe them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ernie_wire.checks import check_flag
from ernie_wire.errors import InvalidValue, MissingParameter

MAX_NAME_CHARACTERS = 128
_NAME = re.compile(rf"[\w.:/-]{{1,{MAX_NAME_CHARACTERS}}}")
_NAME_EXPECTED = (
    f"a name has 1 to {MAX_NAME_CHARACTERS} characters: letters and digits (of any script), and _-.:/"
)
_CHOICES = ("none", "auto", "required")
_DEFAULT, _NAMED = "default", "named"  # the other two modes: no choice, and a function by name
_CHOICE_EXPECTED = (
    'use "none", "auto", "required", {"type": "function", "function": {"name": "..."}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [...]}}'
)
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
REASONING_FIELDS = ("reasoning_content", "reasoning", "thoughts")
"""Names of the thinking in an earlier answer: FastDeploy's and ours, vLLM's, and another of FastDeploy's."""
_SWITCHES = {"true": True, "false": False}
_MAX_QUOTED = 80


@dataclass(frozen=True)
class Tool:
    """A function that an answer may call.

    Attributes:
        name: of the function.
        parameters: the JSON Schema of its arguments, which are an object.
        is_strict: calls must be valid by that schema.
    """

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool = False


@dataclass(frozen=True)
class ToolRequest:
    """Which functions an answer may call, and whether it must.

    Attributes:
        tools: the functions that may be called, at least one, with unique names.
        is_required: the answer must be a call.
        is_parallel: the answer may have several calls.
        is_limited: the choice leaves out functions that the model sees.
    """

    tools: tuple[Tool, ...]
    is_required: bool = False
    is_parallel: bool = True
    is_limited: bool = False

    @classmethod
    def from_json(cls, conversation: Mapping[str, Any]) -> ToolRequest | None:
        """Check ``tools``, ``tool_choice`` and ``parallel_tool_calls`` of a conversation; null means missing.

        Returns:
            None if the answer may call nothing: there are no tools, or the choice is "none".

        Raises:
            InvalidRequest: one of the fields is wrong, or a choice needs tools that are missing.
        """
        is_parallel = conversation.get("parallel_tool_calls")
        if is_parallel is not None:
            check_flag("parallel_tool_calls", is_parallel)
        tools = _tools_by_name(conversation.get("tools"))
        mode, names = _choice(conversation.get("tool_choice"))
        if not tools and mode not in (_DEFAULT, "none"):
            message = "tool_choice needs tools, which is missing or empty; send tools, or leave tool_choice out"
            raise InvalidValue(message, "tool_choice")
        for name in names or ():
            if name not in tools:
                message = f"tool_choice names {name!r}, which is not in tools"
                raise InvalidValue(f"{message}; known: {_quoted(', '.join(tools))}", "tool_choice")
        if not tools or mode == "none":
            return None
        chosen = tuple(tools.values()) if names is None else tuple(tools[name] for name in names)
        return cls(
            chosen,
            is_required=mode in ("required", _NAMED),
            is_parallel=is_parallel is not False and mode != _NAMED,
            is_limited=len(chosen) < len(tools),
        )


def thinking_switch(options: Mapping[str, Any]) -> bool | None:
    """Return whether the variables of a template request thinking; None: they do not say.

    The first that is given decides: ``enable_thinking``, ``options.thinking_mode`` ("close" and "false" are
    off, any other value is on) and ``reasoning_effort`` ("none" is off).

    Raises:
        InvalidValue: ``enable_thinking`` is neither a boolean nor "true" or "false".
    """
    value, inner = options.get("enable_thinking"), options.get("options")
    if isinstance(value, str) and value.lower() in _SWITCHES:  # OpenAI's metadata holds strings only
        return _SWITCHES[value.lower()]
    if value is not None:
        check_flag("enable_thinking", value)
        return bool(value)
    mode = inner.get("thinking_mode") if isinstance(inner, dict) else None
    if mode is not None and mode != "":
        return str(mode).lower() not in ("close", "false")
    return False if options.get("reasoning_effort") == "none" else None


def check_message(where: str, message: Mapping[str, Any]) -> None:
    """Check that a user's message has content, and the reasoning and ``tool_calls`` of any message.

    Args:
        where: ``messages[2]``, for the error.
        message: with the fields of OpenAI's; null means missing.

    Raises:
        InvalidRequest: content is missing, reasoning is not a string, or a call has no function name or
            arguments of a wrong type.
    """
    if message.get("role") == "user" and message.get("content") is None:
        raise MissingParameter(f"{where}.content is missing; a message of the user needs it", "messages")
    for name in REASONING_FIELDS:
        if not isinstance(message.get(name), str | None):
            raise InvalidValue(f"{where}.{name} must be a string", "messages")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        raise InvalidValue(f"{where}.tool_calls must be a list", "messages")
    for index, call in enumerate(calls or ()):
        _check_call(f"{where}.tool_calls[{index}]", call)


def _check_call(where: str, call: object) -> None:
    function = _function(where, call, "messages")
    name, arguments = function.get("name"), function.get("arguments")
    if name is None:
        raise MissingParameter(f"{where}.function.name is missing", "messages")
    if not isinstance(name, str) or not name:
        raise InvalidValue(f"{where}.function.name must be a non-empty string", "messages")
    if not isinstance(arguments, str | dict | None):
        raise InvalidValue(
            f"{where}.function.arguments must be a JSON object, or a string that holds one", "messages"
        )


def _tools_by_name(tools: object) -> dict[str, Tool]:
    if not isinstance(tools, list | None):
        raise InvalidValue("tools must be a list of functions", "tools")
    by_name: dict[str, Tool] = {}
    for index, each in enumerate(tools or ()):
        tool = _tool(f"tools[{index}]", each)
        if tool.name in by_name:
            message = f"tools[{index}].function.name is {tool.name!r}, as that of an earlier tool"
            raise InvalidValue(f"{message}; names must differ", "tools")
        by_name[tool.name] = tool
    return by_name


def _tool(where: str, tool: object) -> Tool:
    function = _function(where, tool, "tools")
    where += ".function"
    description, strict = function.get("description"), function.get("strict")
    if not isinstance(description, str | None):
        raise InvalidValue(f"{where}.description must be a string", "tools")
    if not isinstance(strict, bool | None):
        raise InvalidValue(f"{where}.strict must be true or false", "tools")
    name = _checked_name(f"{where}.name", function.get("name"), "tools")
    return Tool(name, _parameters(f"{where}.parameters", function.get("parameters")), bool(strict))


def _function(where: str, entry: object, param: str) -> Mapping[str, Any]:
    """Return the ``function`` of a tool, a call or a choice."""
    if not isinstance(entry, dict):
        raise InvalidValue(f'{where} must be an object: {{"type": "function", "function": {{...}}}}', param)
    if _kind(entry) != "function":
        message = f"{where}.type is {_quoted(entry.get('type'))}; only functions are supported"
        raise InvalidValue(f'{message}: use {{"type": "function", "function": {{...}}}}', param)
    function = entry.get("function")
    if function is None:
        message = f"{where}.function is missing; it holds the name"
        raise MissingParameter(f'{message}: {{"type": "function", "function": {{"name": "..."}}}}', param)
    if not isinstance(function, dict):
        raise InvalidValue(f"{where}.function must be an object", param)
    return function


def _kind(entry: Mapping[str, Any]) -> object:
    """Return the type of an entry; FastDeploy lets it be missing."""
    kind = entry.get("type")
    return "function" if kind is None else kind


def _checked_name(where: str, name: object, param: str) -> str:
    if name is None:
        raise MissingParameter(f"{where} is missing", param)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValue(f"{where} is {_quoted(name)}; {_NAME_EXPECTED}", param)
    return name


def _parameters(where: str, parameters: object) -> Mapping[str, Any]:
    """Return the schema of the arguments; without one, a function has no parameters."""
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidValue(f"{where} must be an object, the JSON Schema of the arguments", "tools")
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        message = f"{where}.type is {_quoted(kind)}; arguments are an object"
        raise InvalidValue(f'{message}: use "object"', "tools")
    return {**parameters, "type": "object"}


def _choice(choice: object) -> tuple[str, list[str] | None]:
    """Return the mode of a choice, and the names of the functions that it is restricted to; None: all."""
    if choice is None:
        return _DEFAULT, None
    if isinstance(choice, str) and choice in _CHOICES:
        return choice, None
    if not isinstance(choice, dict):
        raise InvalidValue(f"tool_choice is {_quoted(choice)}; {_CHOICE_EXPECTED}", "tool_choice")
    if _kind(choice) == "function":
        function = _function("tool_choice", choice, "tool_choice")
        return _NAMED, [_checked_name("tool_choice.function.name", function.get("name"), "tool_choice")]
    allowed = choice.get("allowed_tools")
    if choice["type"] != "allowed_tools" or not isinstance(allowed, dict):
        raise InvalidValue(f"tool_choice is {_quoted(choice)}; {_CHOICE_EXPECTED}", "tool_choice")
    return _allowed_tools("tool_choice.allowed_tools", allowed)


def _allowed_tools(where: str, allowed: Mapping[str, Any]) -> tuple[str, list[str]]:
    mode, tools = allowed.get("mode"), allowed.get("tools")
    if mode not in ("auto", "required"):
        raise InvalidValue(f'{where}.mode is {_quoted(mode)}; use "auto" or "required"', "tool_choice")
    if not isinstance(tools, list) or not tools:
        raise InvalidValue(f"{where}.tools must be a list of at least one function", "tool_choice")
    names = []
    for index, tool in enumerate(tools):
        place = f"{where}.tools[{index}]"
        function = _function(place, tool, "tool_choice")
        names.append(_checked_name(f"{place}.function.name", function.get("name"), "tool_choice"))
    return mode, list(dict.fromkeys(names))


def _quoted(value: object) -> str:
    """Return a string in quotes and at a readable length, and of any other value its type."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return repr(value if len(value) <= _MAX_QUOTED else f"{value[:_MAX_QUOTED]}...")
