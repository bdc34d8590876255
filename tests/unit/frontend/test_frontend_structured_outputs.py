"""What an answer must be: every form of a client becomes the wire's object, and two at once are refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from pydantic import ValidationError

from ernie_frontend.http_errors import from_validation
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.generate_request import RequestContext
from ernie_wire.errors import ErnieError, InvalidValue

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
TAGS: dict[str, Any] = {
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f"],
}


def on_the_wire(**fields: Any) -> object:
    """Return the wire's object of a chat, and check that it is that of a completion too."""
    context = RequestContext("r", 1000, 8)
    [chat] = chat_to_wire(
        ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields}), context
    )
    [completion] = completion_to_wire(CompletionRequest.model_validate({"prompt": "Hi", **fields}), context)
    assert chat.sampling.structured_outputs == completion.sampling.structured_outputs
    return chat.sampling.structured_outputs


def response_format(**fields: Any) -> object:
    return on_the_wire(response_format=fields)


def refusal(**fields: Any) -> ErnieError:
    try:
        on_the_wire(**fields)
    except ValidationError as error:
        return from_validation(error)
    except InvalidValue as error:
        return error
    raise AssertionError(f"{fields} are accepted")


def test_openais_response_format() -> None:
    assert response_format(type="text") is None
    assert response_format(type="json_object") == {"json_object": True}
    named = {"name": "answer", "description": "An answer", "schema": SCHEMA, "strict": True}
    assert response_format(type="json_schema", json_schema=named) == {"json": SCHEMA}
    assert response_format(type="json_schema", json_schema={"schema": {}}) == {"json": {}}
    unused = dict.fromkeys(("json_schema", "schema", "structures", "triggers", "format"))
    assert response_format(type="json_object", **unused) == {"json_object": True}


def test_a_schema_in_the_place_of_other_servers_is_not_lost() -> None:
    assert response_format(type="json_object", schema=SCHEMA) == {"json": SCHEMA}
    assert response_format(type="json_schema", schema=SCHEMA) == {"json": SCHEMA}


def test_structural_tags_keep_what_they_say() -> None:
    whole = {"type": "structural_tag", **TAGS}
    assert on_the_wire(response_format=whole) == {"structural_tag": whole}
    newer = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": SCHEMA}}
    assert on_the_wire(response_format=newer) == {"structural_tag": newer}
    for tags in (TAGS, json.dumps(TAGS)):
        assert on_the_wire(structural_tag=tags) == {"structural_tag": TAGS}
        assert on_the_wire(structured_outputs={"structural_tag": tags}) == {"structural_tag": TAGS}


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("guided_json", "json", SCHEMA),
        ("guided_json", "json", json.dumps(SCHEMA)),
        ("guided_json", "json", {}),
        ("guided_json", "json", True),
        ("guided_regex", "regex", "[a-z]+"),
        ("guided_choice", "choice", ["a", "b"]),
        ("guided_grammar", "grammar", 'start: "a"'),
    ],
)
def test_guided_fields(name: str, kind: str, value: object) -> None:
    assert on_the_wire(**{name: value}) == {kind: value}
    assert on_the_wire(**{name: value}, response_format={"type": "text"}) == {kind: value}
    assert on_the_wire(structured_outputs={kind: value}) == {kind: value}


def test_vllms_object_with_all_its_fields() -> None:
    kinds = dict.fromkeys(("json", "regex", "choice", "grammar", "json_object", "structural_tag"))
    flags = dict.fromkeys(
        ("disable_fallback", "disable_any_whitespace", "disable_additional_properties"), False
    )
    whole = {**kinds, **flags, "whitespace_pattern": None, "_backend": "guidance", "regex": "a+"}
    assert on_the_wire(structured_outputs=whole) == {"regex": "a+"}
    tight = {"json": SCHEMA, "disable_any_whitespace": True}
    assert on_the_wire(structured_outputs=tight) == tight
    assert (
        "disable_additional_properties"
        in refusal(structured_outputs={"json": SCHEMA, "disable_additional_properties": True}).message
    )


def test_whitespace_belongs_to_json() -> None:
    spaces = {"whitespace_pattern": " ?"}
    assert on_the_wire(guided_whitespace_pattern=" ?") is None
    assert on_the_wire(guided_whitespace_pattern=" ?", guided_json=SCHEMA) == {"json": SCHEMA, **spaces}
    form = {"type": "json_object"}
    assert on_the_wire(guided_whitespace_pattern=" ?", response_format=form) == {"json_object": True, **spaces}
    assert "no meaning for regex" in refusal(guided_whitespace_pattern=" ?", guided_regex="a").message


FORMS: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "guided_json": SCHEMA,
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": 'start: "a"',
    "structural_tag": TAGS,
}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(FORMS, 2)))
def test_two_forms_are_refused_with_the_names_of_both(first: str, second: str) -> None:
    error = refusal(**{name: FORMS[name] for name in (second, first)})
    assert (error.status, error.param) == (400, second)
    assert f"{first} and {second}" in error.message


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {}}, r"response_format.type is missing"),
        ({"response_format": {"type": "json"}}, "'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, r"json_schema.schema is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "schema is missing"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "{}"}}},
            "json_schema.schema: it must be a JSON Schema",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "name": 1}}}, "name"),
        ({"response_format": {"type": "structural_tag"}}, "structures and triggers"),
        ({"response_format": {"type": "structural_tag", **TAGS, "triggers": []}}, "structures and triggers"),
        ({"response_format": {"type": "structural_tag", "structures": [{}]}}, "begin"),
        ({"guided_json": 1}, "guided_json is 1; it must be a JSON Schema, or the text of one"),
        ({"guided_regex": ["a"]}, "guided_regex"),
        ({"guided_regex": ""}, "regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": []}, "choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice"),
        ({"guided_grammar": {}}, "guided_grammar"),
        ({"guided_regex": "a", "guided_whitespace_pattern": " "}, "guided_whitespace_pattern has no meaning"),
        ({"structural_tag": "{"}, "structural_tag is not JSON"),
        ({"structural_tag": "[]"}, "structural_tag must be a JSON object"),
        ({"structural_tag": [1]}, "structural_tag"),
        ({"structured_outputs": []}, "structured_outputs"),
        ({"structured_outputs": {}}, "exactly one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "regex, choice"),
        ({"structured_outputs": {"regexp": "a"}}, "'regexp'"),
        ({"structured_outputs": {"structural_tag": "["}}, "structured_outputs.structural_tag is not JSON"),
    ],
)
def test_wrong_forms_are_refused_by_name(fields: dict[str, Any], complaint: str) -> None:
    error = refusal(**fields)
    assert error.status == 400
    assert complaint in error.message
    assert error.param
    assert any(name in error.message for name in fields)
