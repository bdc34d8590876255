"""Sampling parameters and their limits."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.sampling import SamplingParameters

ALL: dict[str, Any] = {
    "max_tokens": 1,
    "min_tokens": 1,
    "reasoning_max_tokens": 3,
    "response_max_tokens": 4,
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "frequency_penalty": -2,
    "presence_penalty": 2,
    "logit_bias": {"7": -100, "0": 1.5},
    "allowed_token_ids": [3, 5],
    "bad_words": ["x", "y z"],
    "bad_words_token_ids": [3],
    "seed": 2**63 - 1,
    "stop": ["a"],
    "stop_token_ids": [0, 2**31 - 1],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "logprobs": 0,
    "prompt_logprobs": 5,
    "truncate_prompt_tokens": 7,
    "structured_outputs": {"json": {"type": "object", "properties": {"b": {}, "a": {}}}},
    "repetition_detection": {"max_pattern_size": 20, "min_count": 3},
}


def test_json_and_back() -> None:
    assert SamplingParameters.from_json(ALL).to_json() == ALL
    assert SamplingParameters.from_json({}).to_json() == {}
    assert SamplingParameters.from_json({"stop": "x"}).stop == ("x",)
    assert SamplingParameters.from_json({"bad_words": "x"}).bad_words == ("x",)
    assert set(ALL) == {field.name for field in fields(SamplingParameters)}


@pytest.mark.parametrize("name", sorted(ALL))
def test_null_is_absent(name: str) -> None:
    assert SamplingParameters.from_json({name: None}) == SamplingParameters()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"max_tokens": 16.0, "min_tokens": 1.0}, {"max_tokens": 16, "min_tokens": 1}),
        ({"top_k": 50.0, "seed": -0.0}, {"top_k": 50, "seed": 0}),
        ({"seed": -5.0}, {"seed": -5}),
        ({"truncate_prompt_tokens": -1.0}, {"truncate_prompt_tokens": -1}),
        ({"stop_token_ids": [2.0, 3]}, {"stop_token_ids": [2, 3]}),
        ({"bad_words_token_ids": [4.0]}, {"bad_words_token_ids": [4]}),
        ({"allowed_token_ids": [4.0, 5]}, {"allowed_token_ids": [4, 5]}),
        ({"logprobs": True, "prompt_logprobs": True}, {"logprobs": 1, "prompt_logprobs": 1}),
        ({"logprobs": 2.0, "prompt_logprobs": 0.0}, {"logprobs": 2, "prompt_logprobs": 0}),
        ({"logprobs": False, "prompt_logprobs": False}, {}),
        ({"logprobs": -1.0, "prompt_logprobs": -1}, {"logprobs": -1, "prompt_logprobs": -1}),
        ({"stop": "", "bad_words": ""}, {}),
        ({"stop": [], "bad_words": [], "stop_token_ids": [], "bad_words_token_ids": [], "logit_bias": {}}, {}),
    ],
)
def test_other_spellings_of_values(given: dict[str, Any], meant: dict[str, Any]) -> None:
    """Those that vLLM and FastDeploy accept; after a first reading all is in one spelling."""
    asked = SamplingParameters.from_json(given)
    assert json.dumps(asked.to_json()) == json.dumps(meant)
    assert SamplingParameters.from_json(asked.to_json()) == asked


def test_the_keys_of_logit_bias_are_token_ids() -> None:
    biased = SamplingParameters.from_json({"logit_bias": {"7": -100}})
    assert biased.logit_bias == {7: -100}
    assert biased == SamplingParameters(logit_bias={7: -100})


def test_min_tokens_is_at_most_max_tokens() -> None:
    assert SamplingParameters(min_tokens=3, max_tokens=3).min_tokens == 3
    with pytest.raises(InvalidValue, match=r"min_tokens .*max_tokens") as caught:
        SamplingParameters(min_tokens=4, max_tokens=3)
    assert caught.value.param == "min_tokens"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", [1]),
        ("temperature", 10**400),
        ("temperature", 1e39),
        ("repetition_penalty", 10**400),
        ("max_tokens", 2**63),
        ("top_k", 10**400),
        ("logprobs", 2**63),
        ("stop", ["a"] * 17),
        ("stop", ["a" * 2000, "b" * 2097]),
        ("bad_words", ["a"] * 1025),
        ("bad_words", ["a" * 65537]),
        ("top_p", 1.01),
        ("top_p", -1),
        ("top_k", -2),
        ("top_k", 2.5),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", True),
        ("seed", float("inf")),
        ("stop", 7),
        ("stop", [""]),
        ("stop", [3]),
        ("min_tokens", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("repetition_penalty", float("nan")),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": None}),
        ("logit_bias", {"4294967296": 1}),
        ("logit_bias", [1]),
        ("bad_words", [""]),
        ("bad_words", 3),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("allowed_token_ids", [1, "2"]),
        ("allowed_token_ids", 3),
        ("bad_words_token_ids", [-1]),
        ("bad_words_token_ids", ["1"]),
        ("stop_token_ids", "1"),
        ("stop_token_ids", [True]),
        ("stop_token_ids", [2**31]),
        ("stop_token_ids", [1.5]),
        ("include_stop_str_in_output", "yes"),
        ("logprobs", -2),
        ("logprobs", "1"),
        ("prompt_logprobs", 0.5),
        ("reasoning_max_tokens", 0),
        ("response_max_tokens", 0.5),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("truncate_prompt_tokens", 1.5),
        ("truncate_prompt_tokens", "5"),
        ("ignore_eos", 1),
        ("repetition_detection", True),
        ("repetition_detection", {"max_ngram_size": 3}),
        ("no_such_field", 1),
    ],
)
def test_a_value_outside_its_limits_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        SamplingParameters.from_json({name: value})
    assert caught.value.param == name
    assert name in caught.value.message


def test_the_limits_themselves_pass() -> None:
    stop = ("a" * 2000, "b" * 2096)
    asked = SamplingParameters(stop=stop, temperature=3e38, top_k=2**63 - 1, max_tokens=2**63 - 1)
    assert asked.stop == stop
    assert len(SamplingParameters(stop=("a",) * 16, bad_words=("a",) * 1024).stop) == 16


def test_it_must_be_an_object() -> None:
    with pytest.raises(InvalidValue, match="JSON object"):
        SamplingParameters.from_json([1])
