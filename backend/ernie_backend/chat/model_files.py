"""Reading the small JSON files of a model directory.

This module must not know what any of them means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ernie_backend.errors import StartError


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is no such file.

    Raises:
        StartError: the file cannot be read or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StartError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise StartError(f"{path} holds a JSON {type(values).__name__}; an object is expected")
    return values
