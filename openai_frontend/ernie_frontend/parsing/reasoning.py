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
        tags: structural tokens by their text, with the newlines around the content that follows; None if
            reasoning follows.
        content: the newlines around other content.
    """

    tags: Mapping[str, Trim | None]
    content: Trim


def _vl() -> ReasoningFormat:
    content = Trim(_ALL, 0)
    return ReasoningFormat({"<think>": None, "</think>": content}, content)


def _x1() -> ReasoningFormat:
    content, response = Trim(3, 1), Trim(1, 1)  # FastDeploy closes thinking by "\n</think>\n\n"
    tags = {"<think>": None, "</think>": content, "<response>": response, "</response>": content}
    return ReasoningFormat(tags, content)


REASONING = Trim(1, 1)
PLAIN = ReasoningFormat({}, Trim(0, 0))
"""An answer that is content only."""
FORMATS = {"ernie-45-vl": _vl(), "ernie-45-vl-thinking": _vl(), "ernie-x1": _x1()}
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
