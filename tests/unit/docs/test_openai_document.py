"""docs/openai.md lists what the schema has."""

from __future__ import annotations

import re

from ernie_frontend.schema.openapi import GENERATIONS
from ernie_frontend.schema.tables import tables, with_tables
from support.paths import ROOT

DOCUMENT = ROOT / "docs" / "openai.md"


def test_the_tables_are_those_of_the_schema() -> None:
    text = DOCUMENT.read_text()
    assert re.findall(r"<!-- table (\w+) -->", text) == list(tables())
    assert with_tables(text) == text, f"run python -m ernie_frontend.schema.tables {DOCUMENT}"


def test_every_field_is_there_with_its_meaning() -> None:
    text = DOCUMENT.read_text()
    for generation in GENERATIONS.values():
        fields = generation.body.model_fields
        assert all(field.description for field in fields.values())
        for name in (*fields, *generation.refused):
            assert f"| `{name}` |" in text
