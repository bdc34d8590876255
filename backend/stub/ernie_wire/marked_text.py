"""Text with marks: the spans of characters that are one structural token each.

A parser of an answer's structure (thinking, tool calls, locations, tables) must distinguish a tag that is a
token from the same characters made of ordinary tokens: only the former has a mark. Marks count the characters
of the text that they belong to, in ascending order; a mark is never divided.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Mark(NamedTuple):
    """One structural token: ``text[start:end]`` is its text."""

    start: int
    end: int
    token_id: int


class Marked(Protocol):
    """Anything that has a text and its marks."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Its marks."""


class MarkedText(NamedTuple):
    """A piece of text and its marks."""

    text: str = ""
    marks: tuple[Mark, ...] = ()

    def cut(self, start: int, end: int | None = None) -> MarkedText:
        """Return ``text[start:end]`` with the marks that are completely inside; for numbers from 0 on."""
        end = len(self.text) if end is None else end
        inside = (mark for mark in self.marks if start <= mark.start and mark.end <= end)
        return MarkedText(self.text[start:end], _moved(inside, -start))

    def place_before(self, place: int) -> int:
        """Return ``place``, or the start of the mark that a cut there would divide."""
        return next((mark.start for mark in self.marks if mark.start < place < mark.end), place)

    def place_after(self, place: int) -> int:
        """Return ``place``, or the end of the mark that a cut there would divide."""
        return next((mark.end for mark in self.marks if mark.start < place < mark.end), place)


def joined(parts: Iterable[Marked]) -> MarkedText:
    """Return consecutive pieces of text as one."""
    texts: list[str] = []
    marks: list[Mark] = []
    length = 0
    for part in parts:
        texts.append(part.text)
        marks += _moved(part.marks, length)
        length += len(part.text)
    return MarkedText("".join(texts), tuple(marks))


def _moved(marks: Iterable[Mark], distance: int) -> tuple[Mark, ...]:
    return tuple(Mark(start + distance, end + distance, token_id) for start, end, token_id in marks)
