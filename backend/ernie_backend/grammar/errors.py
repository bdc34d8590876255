"""What is wrong with a grammar: llguidance's reason and, in a JSON Schema, the innermost place that has it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from ernie_backend.grammar.json_schema import Schema, children
from ernie_backend.grammar.matcher import EMPTY, KILLED, TOO_COMPLEX
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

MAX_TRIALS = 256
"""Subschemas that are compiled to find the place."""
MAX_SECONDS = 3.0
"""After which no further one is."""
MAX_CHARACTERS = 300
_LARGE = (
    "the grammar is too large, or takes too long to be compiled; make it smaller: fewer rules, fewer patterns"
)
_IN_SCHEMA = re.compile(r"at (\d+)\((\d+)\): failed to compile JSON schema: (.*)", re.DOTALL)
_LISTING = re.compile(r"\n +\d+ \| .*", re.DOTALL)
_LIMITS = ("panic:", "Parser Error: Current row", "Parser Error: Too many items", "lexer error:")
"""How errors of limits begin; those that llguidance does not check are panics."""
_REWORDED = {
    "oneOf constraints": "oneOf is enforced only if no two of its schemas can be valid at a time; use anyOf",
    "present in a registry": "$ref refers to another document; move what it refers to into $defs",
}
"""For reasons that give a client no way out: a word of it, and what is said instead."""
_MISSING = "does not exist"
_NAMED = ("$defs", "definitions")
"""Where references usually point to; a subschema is compiled together with them."""

ErrorOf = Callable[[str], InvalidValue | None]
"""Returns the error of a grammar, or None."""


def grammar_error(source: str, text: str, error_of: Callable[[str], str]) -> InvalidValue:
    """Return the error of a grammar that cannot be compiled.

    Args:
        source: the grammar. A comment ``// NAME`` in the line before ``%json`` says which field the schema is.
        text: llguidance's error.
        error_of: returns llguidance's error of another grammar, empty if there is none.
    """
    if text == EMPTY:
        return InvalidValue(f"{FIELD}: no answer of at least one token fits the grammar", FIELD)
    if text in (KILLED, TOO_COMPLEX) or text.startswith(_LIMITS):
        return InvalidValue(f"{FIELD}: {_LARGE}", FIELD)
    found = _IN_SCHEMA.match(text)
    if found is None:
        return InvalidValue(f"{FIELD}: {_short(text)}; docs/structured-output.md describes the syntax", FIELD)
    lines = source.split("\n")
    line, column = int(found[1]) - 1, int(found[2]) - 1
    name = lines[line - 1].removeprefix("// ") if line and lines[line - 1].startswith("// ") else FIELD
    schema = _schema_at("\n".join((lines[line][column:], *lines[line + 1 :])))
    pointer, reason = _innermost(
        schema, found[3], lambda part: _reason(error_of(f"start: %json {json.dumps(part)}"))
    )
    return InvalidValue(
        f"{name}#{pointer}: {_short(reason)}; change or leave it out: docs/structured-output.md lists "
        "what can be enforced",
        FIELD,
    )


def _schema_at(text: str) -> Schema:
    schema: Schema = json.JSONDecoder().raw_decode(text.removeprefix("%json").lstrip())[0]
    return schema


def _innermost(root: Schema, reason: str, reason_of: Callable[[Schema], str]) -> tuple[str, str]:
    """Return the JSON pointer of the innermost subschema that fails by itself, and its reason."""
    pointer, schema, seen, end = "", root, {""}, time.monotonic() + MAX_SECONDS
    is_inner = True
    while is_inner:
        is_inner = False
        for child_pointer, child in children(pointer, schema, root):
            if child_pointer in seen or _leads_back(child, seen):
                continue
            if len(seen) >= MAX_TRIALS or time.monotonic() > end:
                return pointer, reason
            seen.add(child_pointer)
            child_reason = reason_of(_alone(child, root))
            if child_reason and (_MISSING not in child_reason or child_reason == reason):
                pointer, schema, reason, is_inner = child_pointer, child, child_reason, True
                break
    return pointer, reason


def _leads_back(schema: Schema, seen: set[str]) -> bool:
    """Return whether a schema refers to one that was tried: what fails in it is found there."""
    return isinstance(schema, dict) and str(schema.get("$ref", "")).removeprefix("#") in seen - {""}


def _alone(schema: Schema, root: Schema) -> Schema:
    """Return a subschema as a whole one: with the root's dialect, and the definitions that it may refer to."""
    if isinstance(schema, bool) or isinstance(root, bool):
        return schema
    return {**schema, **{name: root[name] for name in ("$schema", *_NAMED) if name in root}}


def _reason(text: str) -> str:
    """Return what an error says of a schema; nothing of one that only misses its surroundings."""
    found = _IN_SCHEMA.match(text)
    return found[3] if found else ""


def _short(text: str) -> str:
    """Return an error without the listing of the grammar, in one line."""
    text = " ".join(_LISTING.sub("", text).split())
    return next((words for name, words in _REWORDED.items() if name in text), text)[:MAX_CHARACTERS]
