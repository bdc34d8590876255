"""Pieces of llguidance's variant of Lark, of which grammars are made.

A *part* is an expression that can stand in a rule: a literal, a special token ``<[id]>``, the name of a rule.
Parts that follow each other are joined by spaces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.json_schema import without_neutral

WHITESPACE = r" |\n {0,20}"
"""Where JSON may have whitespace: one space, or a line break and an indentation."""
OPTIONS_KEY = "x-guidance"
"""In a JSON Schema, llguidance's options."""
NEWLINES = r"/\n{0,4}/"
ANY_TEXT = r"/(.|\n)*/"

SpecialTokens = Mapping[str, int]


class Grammar(NamedTuple):
    """A part, and the rules that it needs.

    Attributes:
        part: an expression of a rule.
        rules: lines with further rules and terminals; none is called ``start``.
    """

    part: str
    rules: str = ""

    def source(self, before: str = "", after: str = "") -> str:
        """Return the whole grammar of an answer, with parts before and after this one."""
        return f"{self.rules}\nstart: {before} {self.part} {after}\n"


def special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Return the tokens that ``literal`` finds in a text: text -> id."""
    return {tokenizer.token_bytes(each).decode(errors="replace"): each for each in tokenizer.reserved_ids}


def literal(text: str, special: SpecialTokens) -> str:
    """Return the part of a text in which special tokens stand for themselves; empty for an empty text."""
    pieces = _any_of(frozenset(special)).split(text)
    return " ".join(f"<[{special[each]}]>" if each in special else json.dumps(each) for each in pieces if each)


@lru_cache(maxsize=4)
def _any_of(texts: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def json_rule(
    rule: str,
    schema: Mapping[str, Any] | bool,
    field: str,
    whitespace: str | None = WHITESPACE,
    *,
    is_lenient: bool = False,
) -> str:
    """Return the lines of a rule for a JSON value.

    Args:
        rule: its name.
        schema: a JSON Schema, whose options are replaced.
        field: what the schema is in the request; errors of the compiler (``errors``) name it.
        whitespace: regular expression of the whitespace between two tokens; None: there is none.
        is_lenient: ignore keywords that llguidance does not know.
    """
    options: dict[str, Any] = {"lenient": True} if is_lenient else {}
    options |= {"whitespace_flexible": False} if whitespace is None else {"whitespace_pattern": whitespace}
    schema = without_neutral(schema)
    members = schema if isinstance(schema, Mapping) else {}
    text = "false" if schema is False else json.dumps({**members, OPTIONS_KEY: options})
    return f"// {field}\n{rule}: %json {text}\n"
