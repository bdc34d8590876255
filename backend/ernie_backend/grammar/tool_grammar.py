"""The grammar of an answer that may call tools.

Models with tokens for it write each call between them, as ernie-x1 and ernie-45-vl-thinking were trained to::

    <tool_call>
    {"name": "get_weather", "arguments": {"location": "Beijing"}}
    </tool_call>

The answer of any other model, which can call only if it must, is one such object, or a list of them if it may
have several.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ernie_backend.grammar.errors import ErrorOf
from ernie_backend.grammar.json_schema import not_enforced
from ernie_backend.grammar.parts import NEWLINES, Grammar, json_rule
from ernie_wire.conversation import Tool, ToolRequest
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

MAX_SECONDS = 3.0
"""After which no further schema is tried alone."""
_COMPOSED = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref")
"""Keywords by which a schema may allow properties that are not in ``properties``."""


@dataclass(frozen=True)
class CallTags:
    """The tokens around a call.

    Attributes:
        begin, end: ids of ``<tool_call>`` and ``</tool_call>``.
        eos_token_ids: tokens that end an answer.
        newline_ids: tokens of nothing but newlines, if an answer that begins with any other token has no calls;
            None: they may follow text.
    """

    begin: int
    end: int
    eos_token_ids: Collection[int]
    newline_ids: Collection[int] | None = None


def tool_grammar(
    tools: ToolRequest, tags: CallTags | None, answer: Grammar | None = None, unchecked: Collection[str] = ()
) -> Grammar | None:
    """Return what an answer may be.

    Args:
        tools: the functions that may be called.
        tags: tokens around a call; None if the model has none.
        answer: what an answer without calls must be, if it is not free; without effect if a call is required.
        unchecked: names of functions whose arguments may be any object, as their schemas cannot be compiled.

    Returns:
        None if the answer is free: then so are its calls, as no function is strict or left out, and there may
        be several.
    """
    calls = _calls(tools, tags)
    if tools.is_required:
        return Grammar(calls, _functions(tools, unchecked))
    is_free = tools.is_parallel and not tools.is_limited and not any(tool.is_strict for tool in tools.tools)
    if tags is None or (answer is None and is_free):
        return answer
    if answer is not None:
        rules = f"answer: %lark {{\n{answer.source()}\n}}\n"  # its rules may have names of ours
        return Grammar(f"(answer | {calls})", rules + _functions(tools, unchecked))
    special = {tags.begin, *tags.eos_token_ids}
    if tags.newline_ids is None:
        part = f"{_other_than(special)}* ({calls})?"
    else:
        part = f"({calls} | {_other_than(special.union(tags.newline_ids))} {_other_than(special)}*)?"
    return Grammar(part, _functions(tools, unchecked))


def _other_than(token_ids: Collection[int]) -> str:
    """Return the part of one token that is none of these."""
    return f"<[^{','.join(map(str, sorted(token_ids)))}]>"


def arguments_grammar(tool: Tool) -> Grammar:
    """Return the grammar of the arguments of a function."""
    return Grammar("arguments", _arguments("arguments", tool))


def unchecked_tools(tools: ToolRequest, error_of: ErrorOf) -> frozenset[str]:
    """Return the names of the functions whose schemas cannot be compiled.

    Args:
        tools: the functions that may be called.
        error_of: returns the error of a grammar, or None.

    Raises:
        InvalidValue: one of these is strict, or it takes too long to find them.
    """
    names, end = set(), time.monotonic() + MAX_SECONDS
    for tool in tools.tools:
        if time.monotonic() > end:
            raise InvalidValue("tools: their schemas take too long to be compiled; make them simpler", "tools")
        error = error_of(arguments_grammar(tool).source())
        if error is not None and tool.is_strict:
            raise InvalidValue(of_tools(error, tool.name), "tools")
        if error is not None:
            names.add(tool.name)
    return frozenset(names)


def of_tools(error: InvalidValue, name: str | None = None) -> str:
    """Return the text of an error as that of the tools, or of one of them."""
    return error.message.replace(FIELD, "tools" if name is None else _field(name))


def _calls(tools: ToolRequest, tags: CallTags | None) -> str:
    """Return the part of one call, or of several if the answer may have them."""
    if tags is None:
        return '"[" call (", " call)* "]"' if tools.is_parallel else "call"
    call = f'<[{tags.begin}]> "\\n" call "\\n" <[{tags.end}]> {NEWLINES}'
    return f"({call})+" if tools.is_parallel else call


def _functions(tools: ToolRequest, unchecked: Collection[str]) -> str:
    """Return the rule ``call`` and those that it needs."""
    rules = [f"call: {' | '.join(f'call_{index}' for index in range(len(tools.tools)))}\n"]
    for index, tool in enumerate(tools.tools):
        head = json.dumps(f'{{"name": "{tool.name}", "arguments": ', ensure_ascii=False)
        checked = Tool(tool.name, {"type": "object"}) if tool.name in unchecked else tool
        rules.append(f'call_{index}: {head} arguments_{index} "}}"\n')
        rules.append(_arguments(f"arguments_{index}", checked))
    return "".join(rules)


def _arguments(rule: str, tool: Tool) -> str:
    """Return the rule of arguments, without what cannot be enforced unless the function is strict."""
    field = _field(tool.name)
    if tool.is_strict and (found := not_enforced(tool.parameters)):
        raise InvalidValue(
            f"{field}#{found[0]}: {found[1]} cannot be enforced; leave it out, or strict", "tools"
        )
    if tool.is_strict:
        return json_rule(rule, tool.parameters, field)
    return json_rule(rule, _closed(tool.parameters), field, is_lenient=True)


def _closed(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema without arguments that it does not name: no function has them, but a weak model may.

    A schema that says something about them keeps its meaning.
    """
    properties, required = parameters.get("properties"), parameters.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return parameters
    are_named = all(isinstance(name, str) and name in properties for name in required)
    if not are_named or not parameters.keys().isdisjoint(_COMPOSED):
        return parameters
    return {**parameters, "additionalProperties": False}


def _field(name: str) -> str:
    return f"tools: function.parameters of {name!r}"
