"""``structured_outputs``: which objects are valid, and what an error names."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.sampling import SamplingParameters
from ernie_wire.structured_outputs import MAX_BYTES, MAX_CHOICES, kind_of


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"not": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        {"json": {}},
        {"json": True, "disable_any_whitespace": True},
        {"json": '{"type": "object"}', "whitespace_pattern": " ?"},
        {"json": _nested(61)},
        {"json_object": True},
        {"json_object": True, "regex": None, "disable_any_whitespace": None},
        {"regex": "[a-z]+"},
        {"choice": ["a", "b"]},
        {"grammar": 'start: "a"'},
        {"structural_tag": {"type": "structural_tag", "format": {}}},
    ],
)
def test_one_kind_is_valid(value: dict[str, Any]) -> None:
    asked = SamplingParameters.from_json({"structured_outputs": value})
    assert asked.structured_outputs == value
    assert value[kind_of(value)] is not None
    assert SamplingParameters.from_json(asked.to_json()) == asked


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "object"),
        ("{}", "object"),
        ({}, "exactly one .* none"),
        ({"json": None}, "exactly one .* none"),
        ({"json": {}, "regex": "a"}, "exactly one .* json, regex"),
        ({"json": 5}, r"structured_outputs\.json .*5"),
        ({"json": ""}, r"structured_outputs\.json .*empty"),
        ({"json_object": False}, r"json_object is False.* true"),
        ({"regex": ["a"]}, "regex"),
        ({"regex": ""}, "regex .*empty"),
        ({"choice": []}, "choice .*at least one"),
        ({"choice": "ab"}, "choice .*list"),
        ({"choice": ["a", 5]}, "choice .*5"),
        ({"choice": ["a"] * (MAX_CHOICES + 1)}, f"choice .*{MAX_CHOICES}"),
        ({"grammar": {}}, "grammar"),
        ({"structural_tag": "{}"}, "structural_tag .*object"),
        ({"json": {"const": "a" * MAX_BYTES}}, f"{MAX_BYTES}"),
        ({"json": _nested(62)}, "nested too deeply; at most 63"),
        ({"json": {"maximum": float("inf")}}, "number that JSON does not have"),
        ({"regex": "é" * (MAX_BYTES // 2)}, f"{MAX_BYTES}"),
        ({"regex": "a\ud800"}, "surrogate"),
        ({"json": {"const": "\udc00"}}, "surrogate"),
        ({"jsonschema": {}}, "no field 'jsonschema'.*json_object"),
        ({"regex": "a", "whitespace_pattern": " "}, "whitespace_pattern has no meaning for regex"),
        ({"json": {}, "whitespace_pattern": ""}, "whitespace_pattern"),
        ({"json": {}, "whitespace_pattern": " " * 257}, "whitespace_pattern .*256"),
        ({"json": {}, "disable_any_whitespace": "yes"}, "disable_any_whitespace"),
        ({"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "}, "contradicts"),
    ],
)
def test_errors_name_the_field(value: object, words: str) -> None:
    with pytest.raises(InvalidValue, match=words) as caught:
        SamplingParameters.from_json({"structured_outputs": value})
    assert str(caught.value.param).startswith("structured_outputs")
