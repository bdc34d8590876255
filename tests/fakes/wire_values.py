"""Values of any type that a message may have a field of, for hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters

PROMPTS = ("text_input", "input_ids", "messages")
INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=False).map(lambda number: number + 0.0)  # -0.0 is its default, 0.0, on a wire
JSON = st.none() | st.booleans() | st.integers() | NUMBERS | st.text() | st.lists(st.integers(), max_size=2)
SAMPLING = st.builds(
    SamplingParameters,
    max_tokens=st.none() | st.integers(1, 9),
    temperature=st.none() | st.floats(0, 2),
    logit_bias=st.dictionaries(st.integers(0, 9), st.floats(-100, 100), max_size=3),
    allowed_token_ids=st.none() | st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
    bad_words=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    ignore_eos=st.booleans(),
    structured_outputs=st.none()
    | st.dictionaries(st.text(), JSON, max_size=3).map(lambda schema: {"json": schema}),
)
_SCALARS = {
    bool: st.booleans(),
    int: INTEGERS,
    float: NUMBERS,
    str: st.text(),
    bytes: st.binary(max_size=4),
    Any: JSON,
    SamplingParameters: SAMPLING,
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a type: a dataclass's optional fields are there or not, and long values occur."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if is_dataclass(hint) or hasattr(hint, "_fields"):
        return _records_of(hint)
    origin, inner = (
        get_origin(hint),
        [values_of(each) for each in get_args(hint) if each not in (NoneType, ...)],
    )
    if origin in (Union, UnionType):
        return st.none() | inner[0]
    if origin in (dict, Mapping):
        return st.dictionaries(inner[0], inner[1], max_size=3)
    assert origin is tuple, hint
    return st.lists(inner[0], max_size=4).map(tuple)


def _records_of(cls: Any) -> st.SearchStrategy[Any]:
    given = {name: values_of(hint) for name, hint in get_type_hints(cls).items()}
    if not is_dataclass(cls):
        return st.builds(cls, **given)
    needed = {each.name for each in fields(cls) if each.default is each.default_factory is MISSING}
    if cls is GenerateRequest:
        given["cache_salt"] = st.text("abc", max_size=3)
        given["media"] = st.lists(st.binary(min_size=1, max_size=4), max_size=3).map(tuple)
        return st.sampled_from(PROMPTS).flatmap(lambda prompt: _built(cls, given, needed | {prompt}))
    return _built(cls, given, needed)


def _built(cls: Any, given: dict[str, st.SearchStrategy[Any]], needed: set[str]) -> st.SearchStrategy[Any]:
    """Return instances with the fields that are needed, and those others that may be there."""
    others = given.keys() - needed - (set(PROMPTS) if cls is GenerateRequest else set())
    return st.fixed_dictionaries(
        {name: given[name].filter(lambda value: value is not None) for name in sorted(needed)},
        optional={name: given[name] for name in sorted(others)},
    ).map(lambda arguments: cls(**arguments))
