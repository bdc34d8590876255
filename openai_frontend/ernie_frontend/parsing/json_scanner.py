"""Scans a JSON object (RFC 8259) piece by piece, and passes on the values of its members as they arrive.

Values are passed on as the model wrote them: nothing is decoded or formatted, so the parts of a value, joined,
are the same wherever the text was cut. All of the text is checked. The time is linear in its length, and
nothing is recursive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

MAX_DEPTH = 128
"""Limit of objects and arrays inside each other, which the JSON decoders of clients accept."""

_SPACES = re.compile(r"[ \t\n\r]*")
_SCALAR_PART = re.compile(r"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
_STRING_PART = re.compile(r'[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_BEGUN_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{0,3})?")


class NotJsonError(ValueError):
    """The text is not the beginning of a JSON object."""


class MemberPart(NamedTuple):
    """A part of the value of a member of the outermost object; ``is_last`` if the value ends with it."""

    key: str
    text: str
    is_last: bool


class ObjectScanner:
    """Scans one object.

    Attributes:
        is_closed: whether the object has ended.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._text, self._place = "", 0
        self._held = ""  # the beginning of an escape that the next text continues
        self._read: Callable[[], None] = self._read_symbol
        self._take: Callable[[str], None] = self._take_beginning  # handles the next symbol
        self._closers: list[str] = []  # of the open objects and arrays, the innermost last
        self._scalar: list[str] = []  # parts of the number or word that is being read
        self._key: list[str] | None = None  # parts of the key that is being read
        self._member = ""  # the key of the outermost object's current member
        self._value_start: int | None = None  # in the text, if the value of that member goes on
        self._parts: list[MemberPart] = []

    def push(self, text: str) -> tuple[list[MemberPart], str]:
        """Scan the next text; return the parts of members in it, and the text after the end of the object.

        Raises:
            NotJsonError: the text does not continue an object.
        """
        self._text, self._held = self._held + text, ""
        self._place, self._parts = 0, []
        while self._place < len(self._text) and not self.is_closed:
            self._read()
        if self._value_start is not None:
            if self._value_start < len(self._text):
                self._pass_on(len(self._text), is_last=False)
            self._value_start = 0
        return self._parts, self._text[self._place :]

    def _read_symbol(self) -> None:
        self._skip(_SPACES)
        if self._place < len(self._text):
            self._place += 1
            self._take(self._text[self._place - 1])

    def _read_scalar(self) -> None:
        self._scalar.append(self._skip(_SCALAR_PART))
        if self._place < len(self._text):
            self._expect(_SCALAR.fullmatch("".join(self._scalar)) is not None)
            self._read = self._read_symbol
            self._end_value()

    def _read_string(self) -> None:
        part = self._skip(_STRING_PART)
        if part:
            if self._key is not None:
                self._key.append(part)
        elif self._text[self._place] == '"':
            self._place += 1
            self._read = self._read_symbol
            self._end_string()
        elif _BEGUN_ESCAPE.fullmatch(self._text, self._place):
            self._text, self._held = self._text[: self._place], self._text[self._place :]
        else:
            raise NotJsonError

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Go on to the end of what a pattern matches here; return that text."""
        match = pattern.match(self._text, self._place)
        if match is None:
            return ""
        self._place = match.end()
        return match[0]

    def _take_beginning(self, symbol: str) -> None:
        self._expect(symbol == "{")
        self._open(symbol)

    def _take_first_key(self, symbol: str) -> None:
        if symbol == "}":
            self._close(symbol)
        else:
            self._take_key(symbol)

    def _take_key(self, symbol: str) -> None:
        self._expect(symbol == '"')
        self._read, self._key = self._read_string, []

    def _take_colon(self, symbol: str) -> None:
        self._expect(symbol == ":")
        self._take = self._take_value

    def _take_first_item(self, symbol: str) -> None:
        if symbol == "]":
            self._close(symbol)
        else:
            self._take_value(symbol)

    def _take_value(self, symbol: str) -> None:
        if len(self._closers) == 1:
            self._value_start = self._place - 1
        if symbol in "{[":
            self._open(symbol)
        elif symbol == '"':
            self._read = self._read_string
        else:
            self._read, self._scalar = self._read_scalar, [symbol]

    def _take_separator(self, symbol: str) -> None:
        if symbol == ",":
            self._take = self._take_key if self._closers[-1] == "}" else self._take_value
        else:
            self._close(symbol)

    def _open(self, symbol: str) -> None:
        self._expect(len(self._closers) < MAX_DEPTH)
        self._closers.append("}" if symbol == "{" else "]")
        self._take = self._take_first_key if symbol == "{" else self._take_first_item

    def _close(self, symbol: str) -> None:
        self._expect(symbol == self._closers.pop())
        self.is_closed = not self._closers
        if self._closers:
            self._end_value()

    def _end_string(self) -> None:
        if self._key is None:
            self._end_value()
            return
        if len(self._closers) == 1:
            self._member = json.loads(f'"{"".join(self._key)}"')
        self._key, self._take = None, self._take_colon

    def _end_value(self) -> None:
        self._take = self._take_separator
        if len(self._closers) == 1:
            self._pass_on(self._place, is_last=True)
            self._value_start = None

    def _pass_on(self, end: int, *, is_last: bool) -> None:
        self._parts.append(MemberPart(self._member, self._text[self._value_start : end], is_last))

    def _expect(self, is_expected: bool) -> None:
        if not is_expected:
            raise NotJsonError
