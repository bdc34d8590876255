"""Tools, their choice, and calls in messages: what is accepted, what it means, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_wire.conversation import Tool, ToolRequest, check_message
from ernie_wire.errors import InvalidRequest, MissingParameter

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


def function(name: object, **more: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS = [function("f", parameters=SCHEMA, strict=True, description="of f"), function("g")]
F, G = Tool("f", SCHEMA, is_strict=True), Tool("g", NO_PARAMETERS)


def allowed(mode: object, *tools: object) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolRequest((F, G))),
        ("auto", ToolRequest((F, G))),
        ("required", ToolRequest((F, G), is_required=True)),
        ("none", None),
        (function("g"), ToolRequest((G,), is_required=True, is_parallel=False, is_limited=True)),
        ({"function": {"name": "g"}}, ToolRequest((G,), True, False, True)),
        (allowed("auto", function("g"), function("g")), ToolRequest((G,), is_limited=True)),
        (allowed("required", function("g"), function("f")), ToolRequest((G, F), is_required=True)),
    ],
)
def test_choices(choice: object, expected: ToolRequest | None) -> None:
    assert ToolRequest.from_json({"tools": TOOLS, "tool_choice": choice}) == expected


def test_one_call_only() -> None:
    found = ToolRequest.from_json({"tools": TOOLS, "parallel_tool_calls": False})
    assert found == ToolRequest((F, G), is_parallel=False)


@pytest.mark.parametrize("tools", [None, []])
def test_without_tools_nothing_is_called(tools: object) -> None:
    for choice in (None, "none"):
        fields = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": True}
        assert ToolRequest.from_json(fields) is None


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [
        ({"function": {"name": "f"}}, NO_PARAMETERS),
        (function("f", parameters=None, strict=None, description=None), NO_PARAMETERS),
        (function("f", parameters={}), {"type": "object"}),
        (function("f", parameters={"properties": {}}), {"properties": {}, "type": "object"}),
        (function("f", parameters={"type": ["null", "object"]}), {"type": "object"}),
    ],
)
def test_arguments_are_an_object(tool: dict[str, Any], parameters: dict[str, Any]) -> None:
    assert ToolRequest.from_json({"tools": [tool]}) == ToolRequest((Tool("f", parameters),))


@pytest.mark.parametrize("name", ["get_weather", "a-b", "files.read:v1/x", "查询天气", "x" * 128])
def test_names(name: str) -> None:
    fields = {"tools": [function(name)], "tool_choice": function(name)}
    assert ToolRequest.from_json(fields) == ToolRequest((Tool(name, NO_PARAMETERS),), True, False)


@pytest.mark.parametrize(
    ("tools", "complaint"),
    [
        ({}, "tools must be a list"),
        ([5], r"tools\[0\] must be an object"),
        ([TOOLS[0], {"type": "web_search"}], r"tools\[1\]\.type is 'web_search'; only functions"),
        ([{"type": "custom", "custom": {"name": "x"}}], r"tools\[0\]\.type is 'custom'"),
        ([{"type": 5}], r"tools\[0\]\.type is a value of type int"),
        ([{"type": "function", "name": "f"}], r"tools\[0\]\.function is missing"),
        ([{"type": "function", "function": "f"}], r"tools\[0\]\.function must be an object"),
        ([{"type": "function", "function": {}}], r"tools\[0\]\.function\.name is missing"),
        ([function("")], r"tools\[0\]\.function\.name is ''; a name has 1 to 128"),
        ([function("a b")], r"tools\[0\]\.function\.name is 'a b'"),
        ([function("x" * 129)], r"tools\[0\]\.function\.name is 'x{80}\.\.\.'"),
        ([function(10**5000)], r"tools\[0\]\.function\.name is a value of type int"),
        ([TOOLS[0], function("g"), function("f")], r"tools\[2\]\.function\.name is 'f', as that of an earlier"),
        ([function("f", description=5)], r"tools\[0\]\.function\.description must be a string"),
        ([function("f", strict="yes")], r"tools\[0\]\.function\.strict must be true or false"),
        ([function("f", parameters=True)], r"tools\[0\]\.function\.parameters must be an object"),
        ([function("f", parameters=[SCHEMA])], r"tools\[0\]\.function\.parameters must be an object"),
        ([function("f", parameters={"type": "string"})], r"tools\[0\]\.function\.parameters\.type is 'string'"),
        ([function("f", parameters={"type": None})], r"tools\[0\]\.function\.parameters\.type"),
    ],
)
def test_wrong_tools(tools: object, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{complaint}") as raised:
        ToolRequest.from_json({"tools": tools})
    assert raised.value.param == "tools"


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ("any", "tool_choice is 'any'; use"),
        (5, "tool_choice is a value of type int; use"),
        ({"type": "tool"}, "tool_choice is a value of type dict; use"),
        ({"type": "allowed_tools"}, "tool_choice is a value of type dict; use"),
        ({}, r"tool_choice\.function is missing"),
        ({"type": "function", "function": {}}, r"tool_choice\.function\.name is missing"),
        (function("h"), "tool_choice names 'h', which is not in tools; known: 'f, g'"),
        (allowed("none", function("f")), r"tool_choice\.allowed_tools\.mode"),
        (allowed("auto"), r"tool_choice\.allowed_tools\.tools must be"),
        (allowed("auto", "f"), r"tool_choice\.allowed_tools\.tools\[0\] must be"),
        (allowed("auto", function("h")), "tool_choice names 'h'"),
    ],
)
def test_wrong_choices(choice: object, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{complaint}") as raised:
        ToolRequest.from_json({"tools": TOOLS, "tool_choice": choice})
    assert raised.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["auto", "required", function("f"), allowed("auto", function("f"))])
def test_a_choice_needs_tools(choice: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^tool_choice needs tools"):
        ToolRequest.from_json({"tools": [], "tool_choice": choice})


def test_parallel_tool_calls_are_a_flag() -> None:
    with pytest.raises(InvalidRequest, match=r"^parallel_tool_calls is 1"):
        ToolRequest.from_json({"tools": TOOLS, "parallel_tool_calls": 1})


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": ""},
        {"role": "tool"},
        {"role": "assistant", "content": None, "tool_calls": None},
        {"role": "assistant", "tool_calls": []},
        *(
            {"role": "assistant", "tool_calls": [{"id": "c", **function("f", arguments=arguments)}]}
            for arguments in ('{"city": "x"}', "", "no JSON", {"city": "x"}, None)
        ),
        {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
    ],
)
def test_messages(message: dict[str, Any]) -> None:
    check_message("messages[0]", message)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "user"}, "content is missing"),
        ({"role": "user", "content": None}, "content is missing"),
        ({"tool_calls": {}}, "tool_calls must be a list"),
        ({"tool_calls": ["f"]}, r"tool_calls\[0\] must be an object"),
        ({"tool_calls": [{"id": "c"}]}, r"tool_calls\[0\]\.function is missing"),
        ({"tool_calls": [{"type": "custom"}]}, r"tool_calls\[0\]\.type is 'custom'"),
        ({"tool_calls": [function("f"), {"function": {}}]}, r"tool_calls\[1\]\.function\.name is missing"),
        ({"tool_calls": [function("")]}, r"tool_calls\[0\]\.function\.name must be a non-empty"),
        ({"tool_calls": [function(5)]}, r"tool_calls\[0\]\.function\.name must be"),
        ({"tool_calls": [function("f", arguments=[1])]}, r"tool_calls\[0\]\.function\.arguments must be"),
    ],
)
def test_wrong_messages(message: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^messages\[3\]\.{complaint}") as raised:
        check_message("messages[3]", message)
    assert raised.value.param == "messages"
    assert isinstance(raised.value, MissingParameter) == ("missing" in complaint)
