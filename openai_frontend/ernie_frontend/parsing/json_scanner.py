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
MAX_NUMBER_LENGTH = 1024
"""Limit of a number, which is held back until it is complete: what is held is scanned again and again."""

_TOKEN = re.compile(r'[ \t\n\r]*(?:([{}\[\]:,"])|([-+.0-9A-Za-z]+)|\Z)')
_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
# All characters of a string up to its end, or up to an escape that is not whole.
_STRING_PART = re.compile(r'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
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
        self._held = ""  # the beginning of a token that the next text continues
        self._closers: list[str] = []  # of the open objects and arrays, the innermost last
        self._take: Callable[[str], None] = self._take_beginning  # handles the next token
        self._is_in_string = False
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
            if self._is_in_string:
                self._read_string()
            else:
                self._read_token()
        if self._value_start is not None:
            if self._value_start < len(self._text):
                self._pass_on(len(self._text), is_last=False)
            self._value_start = 0
        return self._parts, self._text[self._place :]

    def _read_string(self) -> None:
        start, part = self._place, _STRING_PART.match(self._text, self._place)
        if part is not None:
            self._place = part.end()
        if self._key is not None:
            self._key.append(self._text[start : self._place])
        if self._text.startswith('"', self._place):
            self._place += 1
            self._is_in_string = False
            self._end_string()
        elif _BEGUN_ESCAPE.fullmatch(self._text, self._place):
            self._hold_from(self._place)
        elif self._place < len(self._text):
            raise NotJsonError

    def _read_token(self) -> None:
        token = _TOKEN.match(self._text, self._place)
        if token is None:
            raise NotJsonError
        if len(token[2] or "") > MAX_NUMBER_LENGTH:
            raise NotJsonError
        if token[2] and token.end() == len(self._text):  # a number may go on
            self._hold_from(token.start(2))
            return
        self._place = token.end()
        if token[1] or token[2]:
            self._take(token[1] or token[2])

    def _hold_from(self, place: int) -> None:
        self._text, self._held = self._text[:place], self._text[place:]
        self._place = place

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
        self._is_in_string, self._key = True, []

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
            self._value_start = self._place - len(symbol)
        if symbol in "{[":
            self._open(symbol)
        elif symbol == '"':
            self._is_in_string = True
        else:
            self._expect(_SCALAR.fullmatch(symbol) is not None)
            self._end_value()

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
