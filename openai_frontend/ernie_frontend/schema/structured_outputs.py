"""The fields that say what an answer must be, in the forms of OpenAI, FastDeploy and vLLM."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

_SCHEMA_OR_TEXT = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "boolean"}, {"type": "null"}]}
_OBJECT_OR_TEXT = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}


def _check_schema(value: object) -> object:
    if value is not None and not isinstance(value, (dict, bool)):
        raise ValueError("it must be a JSON Schema: an object, true or false")
    return value


JsonSchema = Annotated[dict[str, Any] | bool | None, BeforeValidator(_check_schema)]


class JsonSchemaFormat(BaseModel):
    """A JSON Schema with its name; the answer keeps to it whether or not ``strict`` is true."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str | None = None
    description: str | None = None
    json_schema: JsonSchema = Field(None, alias="schema")
    strict: bool | None = None


class StructuredTag(BaseModel):
    """A part of an answer with a form: what begins it, the JSON Schema of its content, and what ends it."""

    model_config = ConfigDict(strict=True)

    begin: str
    json_schema: JsonSchema = Field(None, alias="schema")
    end: str


class ResponseFormat(BaseModel):
    """OpenAI's ``response_format``, and the structural tags of FastDeploy, vLLM and XGrammar.

    ``schema`` at the top is a form of other servers, for both of the types with JSON.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = Field(None, description="of the type json_schema")
    top_schema: JsonSchema = Field(None, alias="schema", description="a JSON Schema, if json_schema is missing")
    structures: list[StructuredTag] | None = Field(None, description="of the type structural_tag")
    triggers: list[str] | None = Field(None, description="of the type structural_tag: texts that begin a tag")
    format: dict[str, Any] | None = Field(
        None, description="of the type structural_tag: XGrammar's description, instead of structures"
    )

    @model_validator(mode="after")
    def _check_parts(self) -> ResponseFormat:
        """Check that what the type needs is there."""
        if self.type == "json_schema" and self.schema_of_json is None:
            raise ValueError(
                "json_schema.schema is missing; send the schema, or the type json_object for any object"
            )
        if self.type == "structural_tag" and self.format is None and not (self.structures and self.triggers):
            raise ValueError("the type structural_tag needs structures and triggers, or format")
        return self

    @property
    def schema_of_json(self) -> dict[str, Any] | bool | None:
        """The JSON Schema, wherever it stands."""
        return self.top_schema if self.json_schema is None else self.json_schema.json_schema


class StructuredOutputFields(BaseModel):
    """At most one of them says what the answer must be; whitespace belongs to JSON in any of them."""

    response_format: ResponseFormat | None = Field(
        None, description="OpenAI's object, by its type: text, json_object, json_schema, structural_tag"
    )
    guided_json: Annotated[Any, WithJsonSchema(_SCHEMA_OR_TEXT)] = Field(
        None, description="a JSON Schema, also as text: the answer is a value of it"
    )
    guided_regex: str | None = Field(None, description="the answer matches this regular expression, as a whole")
    guided_choice: list[str] | None = Field(None, description="the answer is one of these texts")
    guided_grammar: str | None = Field(
        None, description="the answer is a text of this grammar: Lark, GBNF or EBNF"
    )
    guided_whitespace_pattern: str | None = Field(
        None, description="regular expression of the whitespace between parts of JSON"
    )
    structural_tag: Annotated[Any, WithJsonSchema(_OBJECT_OR_TEXT)] = Field(
        None,
        description="free text in which tags open parts with a form: structures and triggers, also as text",
    )
    structured_outputs: dict[str, Any] | None = Field(
        None,
        description="vLLM's object: one of json, json_object, regex, choice, grammar, structural_tag, and "
        "disable_any_whitespace or whitespace_pattern",
    )
