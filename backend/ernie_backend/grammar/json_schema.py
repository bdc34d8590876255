"""The structure of JSON Schemas: subschemas by their pointers, and keywords that no grammar can enforce."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

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
_ANY: tuple[Any, ...] = (True, {})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedItems": _ANY,
    "unevaluatedProperties": _ANY,
    "propertyNames": (*_ANY, {"type": "string"}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}
"""Values that limit nothing, which generators of schemas write."""
_ONE = {"items", "additionalProperties", "additionalItems"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
_MAPS = {"properties", "patternProperties"}


def check_enforced(name: str, root: Schema) -> None:
    """Check that a schema can be enforced, as far as llguidance does not.

    Raises:
        InvalidValue: naming the place in ``name``.
    """
    if found := not_enforced(root):
        raise InvalidValue(
            f"{name}#{found[0]}: {found[1]} cannot be enforced; leave it out: docs/structured-output.md lists "
            "what can",
            FIELD,
        )


def not_enforced(root: Schema) -> tuple[str, str] | None:
    """Return the JSON pointer of a subschema with keywords that cannot be enforced, and these; or None.

    Definitions that nothing refers to are not looked at.
    """
    for pointer, schema in _subschemas(root):
        keywords = NOT_ENFORCED.intersection(schema).difference(_neutral(schema))
        if keywords:
            return pointer, ", ".join(sorted(keywords))
    return None


def without_neutral(root: Schema) -> Schema:
    """Return a schema without keywords that cannot be enforced but limit nothing, as ``uniqueItems: false``."""
    if not any(_neutral(schema) for _, schema in _subschemas(root)):
        return root
    copy: dict[str, Any] = json.loads(json.dumps(root))
    for _, schema in _subschemas(copy):
        for keyword in _neutral(schema):
            del schema[keyword]
    return copy


def _neutral(schema: Mapping[str, Any]) -> list[str]:
    return [keyword for keyword, values in _NEUTRAL.items() if keyword in schema and schema[keyword] in values]


def _subschemas(root: Schema) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a schema and those in it, without booleans, with pointers: each once, and before its own parts.

    References can name a place by many pointers, as ``#/anyOf/0`` and ``#/anyOf/00``; so the object counts.
    """
    found, waiting = {id(root)}, [("", root)]
    while waiting:
        pointer, schema = waiting.pop()
        if isinstance(schema, dict):
            yield pointer, schema
        for child in children(pointer, schema, root):
            if id(child[1]) not in found:
                found.add(id(child[1]))
                waiting.append(child)


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
