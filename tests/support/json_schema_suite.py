"""The JSON Schema Test Suite (``tests/data/json_schema_suite``), and what of it a schema's errors say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jsonschema

from support.paths import DATA

NOT_ENFORCED = (
    "cannot be enforced",
    "Unimplemented keys",  # of drafts after 2020-12, or definitions alone
    "oneOf is enforced only",
    "Unknown format",
    "another document",
    "are not disjoint",
    "too many digits",
    "Expected positive integer",  # 2.0
    "Unsatisfiable schema",
)
"""What the reason of a refusal says. An unsatisfiable schema is one that no answer fits."""


@dataclass(frozen=True)
class Case:
    """A schema and its instances, each with whether it is valid."""

    file: str
    description: str
    schema: dict[str, Any] | bool
    tests: list[dict[str, Any]]

    def check(self, text: str) -> None:
        """Raise ValueError or jsonschema's ValidationError if a text is not an instance."""
        jsonschema.Draft202012Validator(self.schema).validate(json.loads(text))


def cases() -> list[Case]:
    """Return all cases."""
    lines = (DATA / "json_schema_suite" / "draft2020-12.jsonl").read_text().splitlines()
    return [Case(**json.loads(line)) for line in lines]
