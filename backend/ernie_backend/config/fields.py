"""The JSON files of a model directory, and typed fields of its ``config.json``; errors name file and field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_backend.errors import StartError
from ernie_wire import json_text
from ernie_wire.errors import InvalidValue


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if the file does not exist.

    Raises:
        StartError: the file cannot be read or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        return json_text.read_json_object(path.read_text(encoding="utf-8"), "its content")
    except (OSError, UnicodeDecodeError, InvalidValue) as error:
        raise StartError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class ConfigFields:
    """The JSON object of a file.

    Attributes:
        path: the file, for messages.
        values: field name -> JSON value.
    """

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> ConfigFields:
        """Read a file.

        Raises:
            StartError: there is no such file, or it is not a JSON object.
        """
        if not path.parent.is_dir():
            raise StartError(
                f"model directory {path.parent} does not exist; give the directory of a checkpoint"
            )
        if not path.is_file():
            raise StartError(f"{path} does not exist; a model directory holds config.json next to its weights")
        return cls(path, read_json_object(path))

    def error(self, complaint: str) -> StartError:
        """Return an error that names the file."""
        return StartError(f"{self.path}: {complaint}")

    def refuse_others(self, computed: Mapping[str, object], where: str = "") -> None:
        """Raise StartError if a field asks for other maths than ``computed``; ``where`` precedes its name."""
        for name, value in computed.items():
            stored = self.values.get(name)
            if stored is not None and stored != value:
                supported = "null" if value is None else json.dumps(value)
                raise self.error(
                    f"{where}{name} is {json.dumps(stored)}; only {supported} is supported, since another "
                    "value changes what the model computes"
                )

    def integer(self, name: str, minimum: int, default: int | None = None) -> int:
        """Return an integer of at least ``minimum``; without a default it must be there."""
        value = self.values.get(name, default)
        if value is None:
            raise self.error(f"{name} is missing")
        if not is_int(value) or value < minimum:
            raise self.error(f"{name} must be an integer of at least {minimum}, found {value!r}")
        return int(value)

    def size(self, name: str, default: int | None = None) -> int:
        """Return an integer of at least 1."""
        return self.integer(name, 1, default)

    def token(self, name: str, default: int) -> int:
        """Return a token id."""
        value = self.values.get(name, default)
        if not is_int(value) or value < 0:
            raise self.error(f"{name} must be a token id, found {value!r}")
        return int(value)

    def positive(self, name: str, default: float, inside: Mapping[str, Any] | None = None) -> float:
        """Return a number above 0, of the object ``inside`` if it is given."""
        value = (self.values if inside is None else inside).get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(f"{name} must be a number above 0, found {value!r}")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.error(f"{name} must be true or false, found {value!r}")
        return value


def is_int(value: object) -> bool:
    """Whether a JSON value is an integer, not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)
