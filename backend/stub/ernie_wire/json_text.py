"""JSON from clients, with a limit of its nesting.

Python's parser and serializer recurse, each to another depth: without a limit, one process could parse what the
next one fails on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ernie_wire.errors import InvalidValue

MAX_DEPTH = 64


def read_json_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Args:
        text: of the client; bytes are UTF-8.
        name: of its field, for the error.

    Raises:
        InvalidValue: not UTF-8, not JSON, not an object, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise InvalidValue(f"{name} is not UTF-8: {error}", name) from None
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:
        raise InvalidValue(f"{name} is not JSON: {error}", name) from None
    if not isinstance(value, dict):
        raise InvalidValue(f"{name} must be a JSON object, not {type(value).__name__}", name)
    check_depth(value, name)
    return value


def check_depth(value: Mapping[str, Any], name: str, num_above: int = 0) -> None:
    """Check the nesting of a decoded object that stands ``num_above`` levels deep in the JSON that is sent.

    Raises:
        InvalidValue: it is nested deeper than ``MAX_DEPTH``.
    """
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH - num_above):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, Mapping) else each)
            if isinstance(child, (Mapping, list, tuple))
        ]
        if not level:
            return
    raise _too_deep(name, num_above)


def _too_deep(name: str, num_above: int = 0) -> InvalidValue:
    limit = MAX_DEPTH - num_above
    return InvalidValue(f"{name} is nested too deeply; at most {limit} levels are allowed", name)
