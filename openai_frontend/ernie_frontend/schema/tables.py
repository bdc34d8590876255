"""The tables of docs/openai.md, made of the schema.

    python -m ernie_frontend.schema.tables docs/openai.md

writes them between the marks in the document; a test compares.
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS, Refusal

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", typing.Any: ""}
_MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Return each table by its name in the marks."""
    common = set(GenerationFields.model_fields)
    return {
        "common": _fields(GenerationFields, common),
        "chat": _fields(ChatRequest, set(ChatRequest.model_fields) - common),
        "completions": _fields(CompletionRequest, set(CompletionRequest.model_fields) - common),
        "refused": _refusals(),
    }


def with_tables(document: str) -> str:
    """Return a document with the tables between its marks."""
    made = tables()
    return _MARKED.sub(lambda mark: f"{mark[1]}{made[mark[2]]}{mark[3]}", document)


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
    return _TYPES[origin or annotation]  # type: ignore[index]


def _refusals() -> str:
    rows = ["| field | where | accepted | why |", "|---|---|---|---|"]
    names = [
        *UNSUPPORTED_IN_CHAT,
        *(name for name in UNSUPPORTED_IN_COMPLETIONS if name not in UNSUPPORTED_IN_CHAT),
    ]
    for name in names:
        places: Mapping[str, Mapping[str, Refusal]] = {
            "chat": UNSUPPORTED_IN_CHAT,
            "completions": UNSUPPORTED_IN_COMPLETIONS,
        }
        where = [place for place, refusals in places.items() if name in refusals]
        refusal = places[where[0]][name]
        neutral = ", ".join(f"`{json.dumps(value)}`" for value in (None, *refusal.neutral))
        rows.append(f"| `{name}` | {' and '.join(where)} | {neutral} | {refusal.reason} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the tables into the document that the command line names."""
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()
