"""The tables of docs/openai.md, made from the schema.

    python -m ernie_frontend.schema.tables docs/openai.md

writes them between the marks in the document; a test compares them.
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from pathlib import Path

from pydantic import BaseModel

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.schema.openapi import GENERATIONS, PROMPT_BODIES
from ernie_frontend.schema.structured_outputs import StructuredOutputFields
from ernie_frontend.schema.unsupported import IGNORED

_TYPES = {
    typing.Literal: "string",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    typing.Any: "",
}
_MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Return the tables by their names in the marks."""
    structured = set(StructuredOutputFields.model_fields)
    common = set(GenerationFields.model_fields)
    return {
        "common": _fields(GenerationFields, common - structured),
        "structured": _fields(StructuredOutputFields, structured),
        **{
            each.name: _fields(each.body, set(each.body.model_fields) - common) for each in GENERATIONS.values()
        },
        **{
            each.name: _fields(each.body, set(each.body.model_fields) - set(ChatRequest.model_fields))
            for each in PROMPT_BODIES.values()
        },
        "refused": _refusals(),
        "ignored": _ignored(),
    }


def with_tables(document: str) -> str:
    """Return a document with the tables between its marks."""
    by_name = tables()
    return _MARKED.sub(lambda mark: f"{mark[1]}{by_name[mark[2]]}{mark[3]}", document)


def _fields(model: type[BaseModel], names: set[str]) -> str:
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in names:
            rows.append(f"| `{name}` | {_type(field.annotation)} | {field.description or ''} |")
    return "\n".join(rows) + "\n"


def _type(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is list:
        return f"list of {_type(arguments[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "object"
    return _TYPES[origin or annotation]


def _refusals() -> str:
    rows = ["| field | where | accepted | why |", "|---|---|---|---|"]
    for name in dict.fromkeys(name for generation in GENERATIONS.values() for name in generation.refused):
        places = [generation for generation in GENERATIONS.values() if name in generation.refused]
        where, refusal = " and ".join(place.name for place in places), places[0].refused[name]
        neutral = ", ".join(f"`{json.dumps(value)}`" for value in (None, *refusal.neutral))
        rows.append(f"| `{name}` | {where} | {neutral} | {refusal.reason} |")
    return "\n".join(rows) + "\n"


def _ignored() -> str:
    rows = ["| field | why |", "|---|---|", *(f"| `{name}` | {reason} |" for name, reason in IGNORED.items())]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the tables into the document that is named on the command line."""
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()
