"""Kinds of values, as text that a user writes: how it is read, and what it may be.

``read`` returns the value, or raises ValueError with what is wrong with the text and what it must be, such as
``is 0; it must be in [1, 4096]``: the caller says of which parameter or flag.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object


class Kind(Protocol):
    """One kind of values; ``shown`` stands for a value in a help text."""

    @property
    def shown(self) -> str:
        """The placeholder, or the known values; empty: the flag takes no value."""
        ...

    def read(self, text: str) -> Any:  # noqa: ANN401 - each kind has its own type
        """Return the value that a text stands for; raises ValueError."""
        ...


@dataclass(frozen=True)
class String:
    """Any text."""

    shown: str = "TEXT"

    def read(self, text: str) -> str:
        """Return the text."""
        return text


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]."""

    low: int = 0
    high: int = 1 << 30
    shown: str = "N"

    def read(self, text: str) -> int:
        """Return the number."""
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"is {text!r}; it must be an integer") from None
        if not self.low <= value <= self.high:
            raise ValueError(f"is {value}; it must be in [{self.low}, {self.high}]")
        return value


@dataclass(frozen=True)
class FirstPort:
    """A port, or several with commas between, of which the first counts; 0 or an empty one is any."""

    shown: str = "PORT"

    def read(self, text: str) -> int:
        """Return the first."""
        return Integer(0, 65535).read(text.partition(",")[0].strip() or "0")


@dataclass(frozen=True)
class Number:
    """A number above ``above``, or equal to it with ``is_included``, and at most ``high``."""

    above: float = 0.0
    high: float = math.inf
    shown: str = "X"
    is_included: bool = False

    def read(self, text: str) -> float:
        """Return the number."""
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"is {text!r}; it must be a number") from None
        if not math.isfinite(value):
            raise ValueError(f"is {text!r}; it must be a finite number")
        is_above = value >= self.above if self.is_included else value > self.above
        if not is_above or value > self.high:
            at_most = "" if self.high == math.inf else f" and at most {self.high:g}"
            least = "at least" if self.is_included else "above"
            raise ValueError(f"is {text}; it must be {least} {self.above:g}{at_most}")
        return value


@dataclass(frozen=True)
class Choice:
    """One of some words, in any case, with ``-`` or ``_``."""

    known: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The words."""
        return "|".join(self.known)

    def read(self, text: str) -> str:
        """Return the word in its spelling here."""
        for word in self.known:
            if word.lower().replace("_", "-") == text.lower().replace("_", "-"):
                return word
        raise ValueError(f"is {text!r}; known: {', '.join(self.known)}")


@dataclass(frozen=True)
class OrNone:
    """A value of another kind, or one of some words for None."""

    kind: Kind
    words: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The placeholder of the other kind."""
        return self.kind.shown

    def read(self, text: str) -> Any:  # noqa: ANN401 - as the other kind
        """Return the value, or None."""
        if text.lower() in self.words:
            return None
        try:
            return self.kind.read(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {self.words[0]}") from None


@dataclass(frozen=True)
class Switch:
    """On or off.

    Attributes:
        has_opposite: there is a flag ``--no-...``, too.
    """

    has_opposite: bool = False
    shown: str = ""

    def read(self, text: str) -> bool:
        """Return whether it is on."""
        return Choice(("true", "false")).read(text) == "true"


class JsonValues:
    """Values of a JSON object: base of dataclasses whose fields have a default, and a ``kind`` as metadata."""

    @property
    def given(self) -> dict[str, Any]:
        """The JSON object, without the values that are the default."""
        return {name: value for name, value in vars(self).items() if value != getattr(type(self), name)}

    @property
    def known(self) -> dict[str, Any]:
        """The JSON object with the defaults in it, without the values that the model decides."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """Return it as text."""
        return json.dumps(self.given)


@dataclass(frozen=True)
class JsonObject:
    """A JSON object with the keys of a dataclass."""

    values: type[JsonValues]
    shown: str = "JSON"

    def read(self, text: str) -> JsonValues:
        """Return the values; a key or a type that is not known is refused, also in one of many."""
        try:
            given = read_json_object(text, "it")
        except InvalidValue as error:
            raise ValueError(f"is {text!r}; {error.message}") from None
        kinds = {each.name: each.metadata["kind"] for each in fields(self.values)}  # type: ignore[arg-type]
        for name in given.keys() - kinds.keys():
            raise ValueError(f"has the unknown key {name!r}; known: {', '.join(kinds)}")
        return self.values(**{name: _read_json(name, value, kinds[name]) for name, value in given.items()})


def _read_json(name: str, value: object, kind: Kind) -> object:
    """Return the value of a key, which must have the JSON type of its kind."""
    plain = kind.kind if isinstance(kind, OrNone) else kind
    types = {Integer: (int,), Number: (int, float), Choice: (str,)}[type(plain)]
    if type(value) not in types:
        raise ValueError(f"has {name} {value!r}; it must be a JSON {'string' if types == (str,) else 'number'}")
    try:
        return kind.read(str(value))
    except ValueError as error:
        raise ValueError(f"has {name}, which {error}") from None
