"""The structure of JSON Schemas: subschemas by their pointers, and keywords that no grammar can enforce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any] | bool

NOT_ENFORCED = frozenset(
    (
        *("not", "if", "then", "else", "dependentSchemas", "extends", "disallow"),
        *("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"),
        *("propertyNames", "dependentRequired", "dependencies", "unevaluatedProperties", "divisibleBy"),
        *("$dynamicRef", "$recursiveRef"),
    )
)
"""Keywords of all drafts that limit values. In a schema of a draft that lacks one, llguidance ignores it."""
_ONE = {"items", "additionalProperties", "additionalItems"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
_MAPS = {"properties", "patternProperties"}


def not_enforced(root: Schema) -> tuple[str, str] | None:
    """Return the JSON pointer of a subschema with keywords that cannot be enforced, and these; or None.

    Definitions that nothing refers to are not looked at.
    """
    found, waiting = {""}, [("", root)]
    while waiting:
        pointer, schema = waiting.pop()
        keywords = [] if isinstance(schema, bool) else sorted(NOT_ENFORCED.intersection(schema))
        if keywords:
            return pointer, ", ".join(keywords)
        for child in children(pointer, schema, root):
            if child[0] not in found:
                found.add(child[0])
                waiting.append(child)
    return None


def children(pointer: str, schema: Schema, root: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the subschemas of a schema with their pointers; a reference's target is one of them.

    ``additionalProperties: false`` is none: alone it allows nothing, which is no fault of the whole.
    """
    if isinstance(schema, bool):
        return
    for keyword, value in schema.items():
        if keyword == "$ref" and isinstance(value, str) and value.startswith("#/"):
            yield from _target(value[1:], root)
        elif keyword in _ONE and isinstance(value, dict):
            yield f"{pointer}/{keyword}", value
        elif keyword in _LISTS and isinstance(value, list):
            yield from (
                (f"{pointer}/{keyword}/{index}", each) for index, each in enumerate(value) if _is_schema(each)
            )
        elif keyword in _MAPS and isinstance(value, dict):
            yield from (
                (f"{pointer}/{keyword}/{name.replace('~', '~0').replace('/', '~1')}", each)
                for name, each in value.items()
                if _is_schema(each)
            )


def _is_schema(value: object) -> bool:
    return isinstance(value, (dict, bool))


def _target(pointer: str, root: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield what a pointer refers to, if that is a schema."""
    value: Any = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return
    if _is_schema(value):
        yield pointer, value
