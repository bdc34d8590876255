"""docs/openai.md lists what the schema has."""

from __future__ import annotations

from pathlib import Path

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.tables import with_tables
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "openai.md"


def test_the_tables_are_those_of_the_schema() -> None:
    text = DOCUMENT.read_text()
    assert with_tables(text) == text, f"run python -m ernie_frontend.schema.tables {DOCUMENT}"


def test_every_field_is_there_with_its_meaning() -> None:
    text = DOCUMENT.read_text()
    fields = {**ChatRequest.model_fields, **CompletionRequest.model_fields}
    for name, field in fields.items():
        assert field.description
        assert f"| `{name}` |" in text
    for name in (*UNSUPPORTED_IN_CHAT, *UNSUPPORTED_IN_COMPLETIONS):
        assert f"| `{name}` |" in text
