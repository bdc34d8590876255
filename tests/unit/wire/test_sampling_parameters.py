"""Sampling parameters and their limits."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.sampling import SamplingParameters

ALL: dict[str, Any] = {
    "max_tokens": 1,
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "seed": 2**63 - 1,
    "stop": ["a"],
    "ignore_eos": True,
}


def test_json_and_back() -> None:
    assert SamplingParameters.from_json(ALL).to_json() == ALL
    assert SamplingParameters.from_json({}).to_json() == {}
    assert SamplingParameters.from_json({"stop": "x"}).stop == ("x",)
    assert SamplingParameters.from_json({"stop": None}).stop == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", [1]),
        ("top_p", 1.01),
        ("top_p", -1),
        ("top_k", -1),
        ("seed", 2**63),
        ("seed", -1),
        ("stop", 7),
        ("stop", [""]),
        ("stop", [3]),
        ("ignore_eos", 1),
        ("no_such_field", 1),
    ],
)
def test_a_value_outside_its_limits_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        SamplingParameters.from_json({name: value})
    assert caught.value.param == name
    assert name in caught.value.message


def test_it_must_be_an_object() -> None:
    with pytest.raises(InvalidValue, match="JSON object"):
        SamplingParameters.from_json([1])
