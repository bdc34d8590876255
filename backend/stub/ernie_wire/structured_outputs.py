"""What an answer must be: vLLM's ``structured_outputs``, checked as far as that needs no tokenizer.

    {"json": {"type": "object"}}      a value of a JSON Schema: an object, true or false, or the text of one
    {"json_object": true}             any JSON object
    {"regex": "[a-z]+"}               a text of a regular expression
    {"choice": ["yes", "no"]}         one of some texts
    {"grammar": "start: ..."}         a text of a grammar
    {"structural_tag": {...}}         free text, in which tags open parts that have a form

Exactly one of these, and beside ``json`` and ``json_object`` how much whitespace a value may have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ernie_wire.checks import check_flag, check_texts
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import check_depth

FIELD = "structured_outputs"
MAX_BYTES = 256 << 10
"""Of the whole object as JSON."""
MAX_CHOICES = 4096
MAX_WHITESPACE_BYTES = 256
WHITESPACE = ("disable_any_whitespace", "whitespace_pattern")


def kind_of(value: Mapping[str, Any]) -> str:
    """Return which of ``KINDS`` an object has.

    Raises:
        InvalidValue: none, or more than one.
    """
    kinds = [name for name in KINDS if value.get(name) is not None]
    if len(kinds) != 1:
        found = ", ".join(kinds) or "none"
        raise InvalidValue(f"{FIELD} must have exactly one of {', '.join(KINDS)}; it has {found}", FIELD)
    return kinds[0]


def check_structured_outputs(value: object) -> None:
    """Check the object's fields, their types and its size; None is valid.

    Raises:
        InvalidValue: naming the field, the value and the limit.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{FIELD} is {_short(value)}; it must be a JSON object", FIELD)
    for name in value:
        if name not in KINDS and name not in WHITESPACE:
            known = ", ".join((*KINDS, *WHITESPACE))
            raise InvalidValue(f"{FIELD} has no field {_short(name)}; known: {known}", FIELD)
    check_depth(value, FIELD, num_above=1)  # sampling_parameters holds it
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        raise InvalidValue(f"{FIELD} holds half of a surrogate pair, which is not text", FIELD) from None
    except ValueError:
        raise InvalidValue(f"{FIELD} holds a number that JSON does not have (NaN, infinity)", FIELD) from None
    if size > MAX_BYTES:
        raise InvalidValue(f"{FIELD} is {size} bytes of JSON; at most {MAX_BYTES} are allowed", FIELD)
    kind = kind_of(value)
    KINDS[kind](f"{FIELD}.{kind}", value[kind])
    _check_whitespace(kind, value)


def _check_whitespace(kind: str, value: Mapping[str, Any]) -> None:
    given = {name: value[name] for name in WHITESPACE if value.get(name) is not None}
    if given and kind not in {"json", "json_object"}:
        name = next(iter(given))
        raise InvalidValue(f"{FIELD}.{name} has no meaning for {kind}; leave it out", f"{FIELD}.{name}")
    flag, pattern = (f"{FIELD}.{name}" for name in WHITESPACE)
    check_flag(flag, given.get("disable_any_whitespace", False))
    if "whitespace_pattern" in given:
        check_texts(pattern, (given["whitespace_pattern"],), 1, MAX_WHITESPACE_BYTES)
        if given.get("disable_any_whitespace"):
            raise InvalidValue(f"{pattern} contradicts {flag}; leave one of them out", pattern)


def _check_schema(name: str, value: object) -> None:
    if not isinstance(value, (Mapping, bool, str)):
        raise InvalidValue(f"{name} is {_short(value)}; it must be a JSON Schema, or the text of one", name)
    if isinstance(value, str):
        check_texts(name, (value,), 1, MAX_BYTES)


def _check_true(name: str, value: object) -> None:
    if value is not True:
        raise InvalidValue(f"{name} is {_short(value)}; it must be true: leave it out otherwise", name)


def _check_text(name: str, value: object) -> None:
    check_texts(name, (value,), 1, MAX_BYTES)


def _check_choices(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple)) or not value:
        raise InvalidValue(f"{name} is {_short(value)}; it must be a list of at least one text", name)
    check_texts(name, tuple(value), MAX_CHOICES, MAX_BYTES)


def _check_object(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{name} is {_short(value)}; it must be a JSON object", name)


def _short(value: object) -> str:
    return repr(value)[:80]


KINDS: Mapping[str, Callable[[str, object], None]] = {
    "json": _check_schema,
    "json_object": _check_true,
    "regex": _check_text,
    "choice": _check_choices,
    "grammar": _check_text,
    "structural_tag": _check_object,
}
"""The fields of which an object has exactly one, and the check of each."""
