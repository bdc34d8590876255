"""From ``structured_outputs`` to the grammar of an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import gbnf_to_lark

from ernie_backend.grammar.json_schema import check_enforced
from ernie_backend.grammar.parts import OPTIONS_KEY, WHITESPACE, Grammar, SpecialTokens, json_rule
from ernie_backend.grammar.structural_tags import tags_grammar
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object
from ernie_wire.structured_outputs import FIELD, kind_of

MAX_GBNF_CHARACTERS = 16 << 10
"""The converter is slow: its time grows with the square of the rules."""
_IS_LARK = re.compile(r"^[ \t]*(%llguidance\b|[?!]*start\s*([\[{]|:(?!:=)))", re.MULTILINE)
_START = "_main"
_TERM = re.compile(
    r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/|(?://|#).*|(?<![\w-])start(?![\w-])|^[ \t]*[?!]+(?=\w)',
    re.MULTILINE,
)
"""Texts, expressions and comments, which are left as they are; ``start``, which gets another name; and Lark's
modifiers ``?`` and ``!`` of a rule, which shape trees: llguidance would add them to the rule before."""


def structured_grammar(structured: Mapping[str, Any], special: SpecialTokens) -> Grammar:
    """Return the grammar of an answer.

    Args:
        structured: checked by ``ernie_wire.structured_outputs``.
        special: tokens that structural tags may have.

    Raises:
        InvalidValue: it is not a grammar; what only llguidance finds is left to the compiler.
    """
    kind = kind_of(structured)
    if kind == "structural_tag":
        return tags_grammar(structured[kind], special)
    if kind in _OF_TEXT:
        return _OF_TEXT[kind](structured[kind])
    whitespace = structured.get("whitespace_pattern") or WHITESPACE
    if structured.get("disable_any_whitespace"):
        whitespace = None
    schema = {"type": "object"} if kind == "json_object" else _schema(structured["json"])
    return Grammar("value", json_rule("value", schema, f"{FIELD}.{kind}", whitespace))


def _schema(value: Mapping[str, Any] | bool | str) -> Mapping[str, Any] | bool:
    name = f"{FIELD}.json"
    if isinstance(value, str):
        text = value.strip()
        value = text == "true" if text in {"true", "false"} else read_json_object(text, name)
    if isinstance(value, Mapping) and OPTIONS_KEY in value:
        raise InvalidValue(
            f"{name}#/{OPTIONS_KEY}: the server sets these options; leave it out, and use "
            f"{FIELD}.disable_any_whitespace or whitespace_pattern",
            FIELD,
        )
    check_enforced(name, value)
    return value


def _regex(pattern: str) -> Grammar:
    return Grammar("regex", f"regex: REGEX\nREGEX: /{regex_to_lark(pattern, 'd')}/\n")


def _choice(texts: list[str]) -> Grammar:
    """Return one of some texts: a terminal, since a rule would have each as a branch of its own."""
    return Grammar("choice", f"choice: CHOICE\nCHOICE: {' | '.join(map(json.dumps, texts))}\n")


def _lark(text: str) -> Grammar:
    """Return a grammar in Lark or GBNF as a part: its rule ``start`` gets another name, as long as this one."""
    if not _IS_LARK.search(text):
        text = _from_gbnf(text)
    return Grammar(_START, _TERM.sub(_renamed, text))


def _renamed(term: re.Match[str]) -> str:
    text = term[0].lstrip(" \t?!")
    return _START if text == "start" else text


def _from_gbnf(text: str) -> str:
    name = f"{FIELD}.grammar"
    if len(text) > MAX_GBNF_CHARACTERS:
        raise InvalidValue(
            f"{name} is GBNF of {len(text)} characters; at most {MAX_GBNF_CHARACTERS} are converted: write "
            "it in Lark, with a rule start",
            FIELD,
        )
    try:
        return gbnf_to_lark(text)
    except Exception as error:  # noqa: BLE001 - the converter raises Exception itself
        raise InvalidValue(
            f"{name} has no rule start, so it is not Lark, and it is not GBNF either: {error}", FIELD
        ) from None


_OF_TEXT: Mapping[str, Callable[[Any], Grammar]] = {"regex": _regex, "choice": _choice, "grammar": _lark}
