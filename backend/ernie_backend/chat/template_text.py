"""Text that remembers which of its characters the chat template wrote.

A template mixes its own special tokens with what a client sends. The client's text must stay text, so each
character has an origin: the template, or anything else. Strings of the template are ``TemplateText``; those of
a request are plain ``str``. What templates do to strings (``+``, ``~``, ``*``, slices, ``strip``, ``split``,
``replace``, ``join``, formatting, changes of case, macros, ``set`` blocks) keeps the origins, and its value is
that of ``str``. Every other operation returns a plain ``str``: what has no known origin counts as the client's.
"""

# ruff: noqa: D102 - the methods of str mean what they mean there

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

_TEMPLATE = b"\x01"
_CONVERSION = re.compile(r"%(?:\([^()]*\))?[-#0 +]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[hlL]?[a-zA-Z%]")


class TemplateText(str):
    """A string with the origins of its characters.

    Args:
        text: the characters.
        origins: a byte per character, 1 where the template wrote it; the default is 0 everywhere.
    """

    __slots__ = ("_origins",)
    _origins: bytes

    def __new__(cls, text: str, origins: bytes | None = None) -> TemplateText:
        """Return the text; without ``origins`` none of it is the template's, as in ``type(text)(...)``."""
        self = super().__new__(cls, text)
        self._origins = bytes(len(text)) if origins is None else origins
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> TemplateText:
        if not _is_text(other):
            return NotImplemented
        return TemplateText(super().__add__(other), self._origins + origins_of(other))

    def __radd__(self, other: str) -> TemplateText:
        if not _is_text(other):
            return NotImplemented
        return TemplateText(str.__add__(other, self), origins_of(other) + self._origins)

    def __mul__(self, count: SupportsIndex) -> TemplateText:
        if not isinstance(count, SupportsIndex):
            return NotImplemented
        return TemplateText(super().__mul__(count), self._origins * count.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: object) -> str:
        if 0 in self._origins:  # a client chose what is filled in; the pattern is also slow on "%000..."
            return str.__str__(self) % values
        mark = secrets.token_hex()
        literals = _CONVERSION.sub("", self)
        if "%" in literals:  # the pattern has missed one
            return super().__mod__(values)
        return _filled(_CONVERSION.sub(rf"{mark}\g<0>{mark}", self) % values, mark)

    def formatted(self, method: Callable[[str], str]) -> str:
        """Return what a formatter makes of this text, with the origins of what is not filled in."""
        if 0 in self._origins:
            return method(str.__str__(self))
        mark = secrets.token_hex()
        marked = ""
        for literal, name, spec, conversion in string.Formatter().parse(self):
            marked += literal.replace("{", "{{").replace("}", "}}")
            if name is not None:
                options = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                marked += f"{mark}{{{name}{options}}}{mark}"
        return _filled(method(marked), mark)

    def __getitem__(self, key: SupportsIndex | slice[Any, Any, Any]) -> TemplateText:
        text = super().__getitem__(key)
        index = key if isinstance(key, slice) else slice(key, key.__index__() + 1 or None)
        return TemplateText(text, self._origins[index])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def lstrip(self, chars: str | None = None, /) -> TemplateText:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None, /) -> TemplateText:
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None, /) -> TemplateText:
        return self.rstrip(chars).lstrip(chars)

    def removeprefix(self, prefix: str, /) -> TemplateText:
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str, /) -> TemplateText:
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(super().split(sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(super().rsplit(sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._found(super().splitlines(keepends=True), 0)
        return lines if keepends else [line[: len(str.splitlines(line)[0])] for line in lines]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, between, after = self._found(list(super().partition(sep)), 0)
        return before, between, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, between, after = self._found(list(super().rpartition(sep)), 0)
        return before, between, after

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:  # between all characters; no template does this
            return super().replace(old, new, count)
        return joined(self.split(old, count), new)

    def join(self, parts: Iterable[str], /) -> TemplateText:
        texts = list(parts)
        return TemplateText(super().join(texts), self._origins.join(map(origins_of, texts)))

    def lower(self) -> str:
        return self._recased(super().lower())

    def upper(self) -> str:
        return self._recased(super().upper())

    def capitalize(self) -> str:
        return self._recased(super().capitalize())

    def title(self) -> str:
        return self._recased(super().title())

    def _found(self, pieces: list[str], gap: int) -> list[str]:
        """Return the pieces, which follow each other in this text with at least ``gap`` characters between."""
        found: list[str] = []
        start = 0
        for piece in pieces:
            start = str.index(self, piece, start)  # at once, or after white space, which no piece begins with
            found.append(self[start : start + len(piece)])
            start += len(piece) + gap
        return found

    def _recased(self, text: str) -> str:
        """Return ``text`` with these origins, unless a character became two (ß, SS)."""
        return TemplateText(text, self._origins) if len(text) == len(self) else text


def _is_text(value: object) -> bool:
    """Return whether a value has no say of its own in ``+``, as Undefined and Markup of jinja2 have."""
    return isinstance(value, str) and not hasattr(value, "__html__")


def template_written(value: Any) -> Any:  # noqa: ANN401 - any constant of a template
    """Return a constant of the template with its strings as the template's text."""
    if type(value) is str:  # jinja2's Markup stays what it is
        return TemplateText(value, _TEMPLATE * len(value))
    if isinstance(value, list | tuple):
        return type(value)(map(template_written, value))
    if isinstance(value, dict):
        return {template_written(key): template_written(each) for key, each in value.items()}
    return value


def origins_of(text: str) -> bytes:
    """Return a byte per character, 1 where the template wrote it."""
    return text._origins if isinstance(text, TemplateText) else bytes(len(text))


def joined(parts: Iterable[object], separator: str = "") -> TemplateText:
    """Return the parts as one text, with ``separator`` between them."""
    texts = [str(part) for part in parts]
    return TemplateText(str.join(separator, texts), origins_of(separator).join(map(origins_of, texts)))


def _filled(marked: str, mark: str) -> TemplateText:
    """Return a formatted text of the template; what was filled in is between marks, which nobody can guess."""
    pieces = marked.split(mark)
    return joined(piece if at % 2 else template_written(piece) for at, piece in enumerate(pieces))
