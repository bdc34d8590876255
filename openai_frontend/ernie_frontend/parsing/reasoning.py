"""The formats of answers with reasoning: which tags divide them, and which newlines belong to the tags."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

_ALL = sys.maxsize


class Trim(NamedTuple):
    """How many newlines at the beginning and at the end of a section belong to its tags."""

    leading: int
    trailing: int


class ReasoningFormat(NamedTuple):
    """A format of answers.

    Attributes:
        tags: the text of structural tokens that are not part of any text.
        content: the newlines around content.
        sections: tags that begin a new section of content, and the newlines around that.
    """

    tags: frozenset[str]
    content: Trim
    sections: Mapping[str, Trim]


BEGIN, END = "<think>", "</think>"
REASONING = Trim(1, 1)
PLAIN = ReasoningFormat(frozenset(), Trim(0, 0), {})
"""An answer that is content only."""
_VL = ReasoningFormat(frozenset((BEGIN, END)), Trim(_ALL, 0), {})
_X1_CONTENT = Trim(_ALL, 1)  # models write three; "\n</think>\n\n" closes thinking, and more may follow it
_X1_RESPONSE = {"<response>": Trim(1, 1), "</response>": _X1_CONTENT}
FORMATS = {
    "ernie-45-vl": _VL,
    "ernie-45-vl-thinking": _VL,
    "ernie-x1": ReasoningFormat(frozenset((BEGIN, END, *_X1_RESPONSE)), _X1_CONTENT, _X1_RESPONSE),
}
"""By the name of the reasoning parser."""


class Section:
    """Text between two tags, without the newlines that belong to them; nothing is left of newlines alone.

    Args:
        trim: the newlines that are left out.
        is_begun: the text has begun before, so newlines at its beginning are part of it.
    """

    def __init__(self, trim: Trim, *, is_begun: bool = False) -> None:
        self._trim = trim
        self._is_begun = is_begun
        self._num_held = 0  # newlines that may turn out to be at the beginning or at the end

    def push(self, text: str) -> str:
        """Take the next text; return what is certainly part of the section."""
        if not self._is_begun:
            rest = text.lstrip("\n")
            self._num_held += len(text) - len(rest)
            if not rest:
                return ""
            text, self._is_begun = rest, True
            self._num_held = max(0, self._num_held - self._trim.leading)
        text = self.take_held() + text
        num_last = len(text) - len(text.rstrip("\n"))
        self._num_held = min(num_last, self._trim.trailing)
        return text[: len(text) - self._num_held]

    def take_held(self) -> str:
        """Return the newlines that are held back, and forget them."""
        num_held, self._num_held = self._num_held, 0
        return "\n" * num_held
