"""What one flag is: its names, values and defaults, its meaning in two languages, its effect here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ernie_backend.config.quantization_config import FORMAT_KEYS, format_name
from ernie_backend.settings.kinds import Kind, Switch


class LocalizedText(NamedTuple):
    """A sentence in English and in Chinese."""

    en: str
    zh: str

    def to(self, language: str) -> str:
        """Return the sentence in a language: ``en`` or ``zh``."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True)
class JsonObject:
    """A JSON object, passed on as it was given."""

    shown: str = "JSON"

    def read(self, text: str) -> str:
        """Return the text."""
        try:
            is_object = isinstance(json.loads(text), dict)
        except ValueError as error:
            raise ValueError(f"is {text!r}, which is not JSON: {error}") from None
        if not is_object:
            raise ValueError(f"is {text!r}, which is not a JSON object")
        return text


@dataclass(frozen=True)
class QuantizationName:
    """The name of a weight format, or a JSON object that says nothing but this name, in FastDeploy's keys."""

    names: Kind
    shown: str = "NAME|JSON"

    def read(self, text: str) -> str:
        """Return the name; ``none`` for a word that means it."""
        if text.lstrip().startswith("{"):
            content = json.loads(JsonObject().read(text))
            is_mix = content.keys() == set(FORMAT_KEYS)
            name = format_name(*map(content.get, FORMAT_KEYS)) if is_mix else content.get("quantization")
            if name is None or not (is_mix or len(content) == 1):
                raise ValueError(f'is {text}; give {{"quantization": NAME}} or a name')
            text = str(name)
        return str(self.names.read(text.strip()) or "none")


@dataclass(frozen=True)
class ApiKeys:
    """One API key, or some with commas between them."""

    shown: str = "KEY"

    def read(self, text: str) -> str:
        """Return the keys."""
        if not text.replace(",", "").strip():
            raise ValueError("holds no key, which would leave the API open; give one or leave it out")
        return text


@dataclass(frozen=True)
class Passed:
    """The value is used.

    Attributes:
        engine: the engine parameter that it becomes, in config.pbtxt; None: it becomes none.
        frontend: it becomes the flag of this name of ``ernie-triton-frontend``.
        serve: ``serve`` itself reads it.
    """

    engine: str | None = None
    frontend: bool = False
    serve: bool = False


@dataclass(frozen=True)
class NoEffect:
    """The flag is taken and has no effect; giving it prints a notice with the reason."""

    why: LocalizedText


@dataclass(frozen=True)
class Refused:
    """To ignore the flag would change answers or safety, so only its neutral values are taken.

    Attributes:
        why: what is not available, and the way out.
        neutral: values that ask for what happens anyway; a flag's name stands for the value of that flag.
    """

    why: LocalizedText
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
        many: ``+``: several values follow it; ``repeat``: it is given once for each; they are passed on with
            commas between them. Empty: one value.
        short: another spelling.
        is_secret: the value is shown nowhere.
    """

    name: str
    kind: Kind
    fastdeploy: str | None
    default: str
    help: LocalizedText
    effect: Effect
    many: str = ""
    short: str | None = None
    is_secret: bool = False

    @property
    def opposite(self) -> str | None:
        """The flag that switches it off, if there is one."""
        is_there = isinstance(self.kind, Switch) and self.kind.has_opposite
        return self.name.replace("--", "--no-", 1) if is_there else None

    def read(self, text: str) -> str:
        """Return one value in its usual spelling; raises ValueError."""
        value = self.kind.read(text)
        if value is None:
            return text.lower()
        return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Group:
    """Flags that are shown under one heading."""

    title: LocalizedText
    flags: tuple[Flag, ...]
