"""What one flag is: its names, values and defaults, its meaning in two languages, its effect here.

Data only. This module must not know any particular flag, nor how a command line is read.
"""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class Text(NamedTuple):
    """A sentence in English and in Chinese."""

    en: str
    zh: str


@dataclass(frozen=True)
class Word:
    """Any text.

    Attributes:
        shown: the placeholder in the help.
    """

    shown: str = "TEXT"

    def read(self, text: str) -> str:
        """Return the value as it is passed on; ArgumentTypeError says why ``text`` is none."""
        return text


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]."""

    low: int = 0
    high: int = 1 << 30
    shown: str = "N"

    def read(self, text: str) -> str:
        """Return the number in its usual spelling."""
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not self.low <= value <= self.high:
            raise ArgumentTypeError(f"{value} is outside [{self.low}, {self.high}]")
        return str(value)


@dataclass(frozen=True)
class Number:
    """A number in [low, high]."""

    low: float = 0.0
    high: float = 1e9
    shown: str = "X"

    def read(self, text: str) -> str:
        """Return the number in its usual spelling."""
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a number") from None
        if not self.low <= value <= self.high:
            raise ArgumentTypeError(f"{text} is outside [{self.low:g}, {self.high:g}]")
        return str(value)


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
        raise ArgumentTypeError(f"{text!r} is not known; known: {', '.join(self.known)}")


@dataclass(frozen=True)
class WeightFormat:
    """The name of a weight format, in any case, or a JSON object that says nothing but this name."""

    known: tuple[str, ...] = ("wint8", "wint4", "w4a8", "none")
    shown: str = "NAME|JSON"

    def read(self, text: str) -> str:
        """Return the name in lower case."""
        name = text.strip().lower()
        if text.lstrip().startswith("{"):
            content = json.loads(JsonObject().read(text))
            if set(content) != {"quantization"}:
                raise ArgumentTypeError(f'{text} is not available; give {{"quantization": NAME}} or a name')
            name = str(content["quantization"]).lower()
        if name not in self.known:
            raise ArgumentTypeError(f"{name!r} is not available; available: {', '.join(self.known)}")
        return name


@dataclass(frozen=True)
class JsonObject:
    """A JSON object."""

    shown: str = "JSON"

    def read(self, text: str) -> str:
        """Return the text unchanged."""
        try:
            is_object = isinstance(json.loads(text), dict)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
        if not is_object:
            raise ArgumentTypeError(f"{text!r} is not a JSON object")
        return text


@dataclass(frozen=True)
class Words:
    """Several words; they are passed on with commas between them.

    Attributes:
        is_repeated: the flag is given once for each word; else the words follow one flag.
    """

    is_repeated: bool = False
    shown: str = "TEXT"

    def read(self, text: str) -> str:
        """Return one word unchanged."""
        return text


@dataclass(frozen=True)
class Keys(Words):
    """Keys; each time the flag is given it holds one at least, or some with commas between them."""

    def read(self, text: str) -> str:
        """Return the keys unchanged."""
        if not text.replace(",", "").strip():
            raise ArgumentTypeError("it holds no key, which would leave the API open; give one or leave it out")
        return text


@dataclass(frozen=True)
class Switch:
    """A flag without a value; given, it is ``true``.

    Attributes:
        has_opposite: ``--no-...`` exists too, and is ``false``.
    """

    has_opposite: bool = False
    shown: str = ""

    def read(self, text: str) -> str:
        """Return the value unchanged."""
        return text


Kind: TypeAlias = Word | Integer | Number | Choice | WeightFormat | JsonObject | Words | Switch


@dataclass(frozen=True)
class Passed:
    """The value is used.

    Attributes:
        engine: the engine parameter that it becomes, in config.pbtxt.
        frontend: the flag of ``ernie-triton-frontend`` that it becomes.
        serve: ``serve`` itself reads it.
    """

    engine: str | None = None
    frontend: str | None = None
    serve: bool = False


@dataclass(frozen=True)
class NoEffect:
    """The flag is taken and has no effect; giving it prints a notice with the reason."""

    why: Text


@dataclass(frozen=True)
class Refused:
    """To ignore the flag would change answers or safety, so only its neutral values are taken.

    Attributes:
        why: what is not available, and the way out.
        neutral: values that ask for what happens anyway; a flag's name stands for the value of that flag.
    """

    why: Text
    neutral: tuple[str, ...] = ()


Effect: TypeAlias = Passed | NoEffect | Refused


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: with its dashes, as FastDeploy documents it.
        kind: what values it takes.
        fastdeploy: FastDeploy's default; None: a flag of ours.
        default: our default, as one writes it or in words.
        help: its meaning.
        effect: what it does here.
        short: another spelling.
        is_secret: the value is shown nowhere.
    """

    name: str
    kind: Kind
    fastdeploy: str | None
    default: str
    help: Text
    effect: Effect
    short: str | None = None
    is_secret: bool = False


@dataclass(frozen=True)
class Group:
    """Flags that are shown under one heading."""

    title: Text
    flags: tuple[Flag, ...]


def normalized(name: str) -> str:
    """Return a flag's name with dashes, however it was spelled."""
    return name.replace("_", "-")
