"""What an answer must be: the wire's ``structured_outputs``, from whichever field a client says it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ernie_frontend.schema.structured_outputs import ResponseFormat, StructuredOutputFields
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object

# FastDeploy's fields, and where the wire has their values.
_KINDS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
_WHITESPACE = "structured_outputs.whitespace_pattern"
# Fields of vLLM's object that choose between its libraries.
_LIBRARIES = ("disable_fallback", "_backend", "_backend_was_auto")
# Of its flags, those for which false means the same as null.
_FLAGS = ("json_object", "disable_any_whitespace", "disable_additional_properties")


def structured_outputs(body: StructuredOutputFields) -> dict[str, Any] | None:
    """Return what the answer must be, or None if the request does not say.

    Raises:
        InvalidValue: more than one field says it, or a structural tag is not JSON.
    """
    forms = {
        "response_format": _of_response_format(body.response_format),
        "structured_outputs": _of_object(body.structured_outputs),
        **{name: _of_value(name, kind, getattr(body, name)) for name, kind in _KINDS.items()},
    }
    given = {name: form for name, form in forms.items() if form is not None}
    if len(given) > 1:
        *_, last = given
        raise InvalidValue(f"{' and '.join(given)} each say what the answer must be; send one of them", last)
    form = next(iter(given.values()), None)
    if form is not None and body.guided_whitespace_pattern is not None:
        form.setdefault("whitespace_pattern", body.guided_whitespace_pattern)
    return form


def in_clients_words(error: InvalidValue, body: StructuredOutputFields) -> InvalidValue:
    """Return an error about the wire's object as one about the field that the client sent."""
    if not (error.param or "").startswith("structured_outputs"):
        return error
    if body.guided_whitespace_pattern is not None and error.param == _WHITESPACE:
        name = "guided_whitespace_pattern"
        return InvalidValue(error.message.replace(_WHITESPACE, name), name)
    for name, kind, place in _places(body):
        message = error.message.replace(f"structured_outputs.{kind}", place).replace("structured_outputs", name)
        return InvalidValue(message, name)
    return error


def _places(body: StructuredOutputFields) -> Iterator[tuple[str, str, str]]:
    """Yield the field that says what the answer must be, the wire's kind, and the place of its value."""
    form = body.response_format
    if form is not None and form.type == "structural_tag":
        yield "response_format", "structural_tag", "response_format"
    elif form is not None and form.type != "text":
        inner = "schema" if form.json_schema is None else "json_schema.schema"
        yield "response_format", "json", f"response_format.{inner}"
    for name, kind in _KINDS.items():
        if getattr(body, name) is not None:
            yield name, kind, name


def _of_response_format(form: ResponseFormat | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "structural_tag":
        parts = {"type", "structures", "triggers", "format"}
        return {"structural_tag": form.model_dump(by_alias=True, exclude_none=True, include=parts)}
    schema = form.schema_of_json
    return {"json_object": True} if schema is None else {"json": schema}


def _of_object(form: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if form is None:
        return None
    kept = {
        name: value
        for name, value in form.items()
        if value is not None and name not in _LIBRARIES and not (name in _FLAGS and value is False)
    }
    if "structural_tag" in kept:
        kept["structural_tag"] = _as_object("structured_outputs.structural_tag", kept["structural_tag"])
    return kept


def _of_value(name: str, kind: str, value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    return {kind: _as_object(name, value) if kind == "structural_tag" else value}


def _as_object(name: str, value: object) -> object:
    """Return the object in a text; other values are left to the wire's checks."""
    return read_json_object(value, name) if isinstance(value, str) else value
