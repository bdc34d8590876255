"""Reading the small JSON files of a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ernie_backend.errors import StartError
from ernie_wire import json_text
from ernie_wire.errors import InvalidValue


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is no such file.

    Raises:
        StartError: the file cannot be read or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        return json_text.read_json_object(path.read_text(encoding="utf-8"), "its content")
    except (OSError, UnicodeDecodeError, InvalidValue) as error:
        raise StartError(f"{path} cannot be read: {error}") from error
