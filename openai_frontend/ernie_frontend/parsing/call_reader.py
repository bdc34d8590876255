"""Reads one tool call, piece by piece.

A call is a JSON object with the members ``name`` and ``arguments``, an object. As other families write them,
the arguments may also be called ``parameters``, be the text of an object in a string, or be missing if there
are none. They are passed on as the model wrote them, while it writes them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ernie_frontend.parsing.json_scanner import MemberPart, NotJsonError, ObjectScanner

_ARGUMENTS = ("arguments", "parameters")
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # of a surrogate pair; JSON can write one, UTF-8 cannot


@dataclass(frozen=True)
class ToolCallDelta:
    """A part of a call: first its name without arguments, then its arguments.

    Attributes:
        index: of the call in the answer.
        name: the function; only in the first part of a call.
        arguments: the next characters of a JSON object.
    """

    index: int
    name: str | None
    arguments: str


class NotACallError(ValueError):
    """The text is not a call."""


class CallReader:
    """Reads the text of one call.

    Of members with the same name the first counts, because it may have been passed on.

    Attributes:
        index: of the call in the answer.
        is_closed: whether the object has ended.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_closed = False
        self._scanner = ObjectScanner()
        self._name: str | None = None
        self._has_passed_name = False
        self._unread: list[str] = []  # parts of a string that is read when it is complete
        self._arguments: list[str] = []  # not passed on yet
        self._is_in_object = False  # the object of the arguments has begun
        self._has_arguments = False

    @property
    def is_complete(self) -> bool:
        """Whether name and arguments are complete; the last brace may be missing."""
        return self._name is not None and self._has_arguments

    def push(self, text: str) -> tuple[list[ToolCallDelta], str]:
        """Read the next text; return the new parts of the call, and the text after its end.

        Raises:
            NotACallError: the text does not continue a call.
        """
        try:
            parts, rest = self._scanner.push(text)
        except NotJsonError:
            raise NotACallError from None
        for part in parts:
            if part.key == "name" and self._name is None:
                self._read_name(part)
            elif part.key in _ARGUMENTS and not self._has_arguments:
                self._read_arguments(part)
        self.is_closed = self._scanner.is_closed
        if self.is_closed:
            self._close()
        return self._new_deltas(), rest

    def _read_name(self, part: MemberPart) -> None:
        name = self._read_string(part)
        if name == "":
            raise NotACallError
        self._name = name

    def _read_arguments(self, part: MemberPart) -> None:
        if self._is_in_object or (not self._unread and part.text.startswith("{")):
            self._is_in_object, self._has_arguments = True, part.is_last
            self._arguments.append(part.text)
            return
        text = self._read_string(part)
        if text is not None:
            _check_object(text)
            self._has_arguments = True
            self._arguments.append(text)

    def _read_string(self, part: MemberPart) -> str | None:
        """Return a string when it is complete, else None."""
        self._unread.append(part.text)
        if not self._unread[0].startswith('"'):
            raise NotACallError
        if not part.is_last:
            return None
        text: str = json.loads("".join(self._unread))
        self._unread = []
        if _HALF_PAIR.search(text):
            raise NotACallError
        return text

    def _close(self) -> None:
        if self._name is None:
            raise NotACallError
        if not self._has_arguments:
            self._has_arguments = True
            self._arguments.append("{}")

    def _new_deltas(self) -> list[ToolCallDelta]:
        if self._name is None:
            return []
        deltas = []
        if not self._has_passed_name:
            self._has_passed_name = True
            deltas.append(ToolCallDelta(self.index, self._name, ""))
        arguments = "".join(self._arguments)
        if arguments:
            self._arguments = []
            deltas.append(ToolCallDelta(self.index, None, arguments))
        return deltas


def _check_object(text: str) -> None:
    """Raise NotACallError if a text is not a JSON object."""
    scanner = ObjectScanner()
    try:
        _, rest = scanner.push(text)
    except NotJsonError:
        raise NotACallError from None
    if not scanner.is_closed or rest.strip():
        raise NotACallError
