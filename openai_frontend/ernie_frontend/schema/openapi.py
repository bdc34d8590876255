"""openapi.json: FastAPI's document, completed by the request bodies that the routes parse themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ernie_frontend.http_errors import UnknownRoute
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.responses import ChatCompletionChunk, Completion, ErrorAnswer
from ernie_frontend.schema.tokenization import DetokenizeRequest, TokenizeRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS, Refusal
from ernie_wire.errors import ErnieError

VERSION = version("ernie-triton-frontend")
OPENAPI_PATH = "/openapi.json"
GENERATION_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500, 503)
_DESCRIPTION = "OpenAI's API for models of the ERNIE family, with extensions of FastDeploy and vLLM."
_SECRETS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


_WARNING = {"description": "What the client should know although it is answered", "schema": {"type": "string"}}


class Generation(NamedTuple):
    """What FastAPI does not know about a generation path.

    Attributes:
        name: in docs/openai.md.
        body: the schema of a request.
        refused: unsupported fields.
        example: a body, in which the field of the prompt comes first.
        chunk: the schema of a stream's events.
    """

    name: str
    body: type[GenerationFields]
    refused: Mapping[str, Refusal]
    example: dict[str, Any]
    chunk: type[BaseModel]


GENERATIONS = {
    "/v1/chat/completions": Generation(
        "chat",
        ChatRequest,
        UNSUPPORTED_IN_CHAT,
        {"messages": [{"role": "user", "content": "Where is the capital of China?"}], "max_tokens": 64},
        ChatCompletionChunk,
    ),
    "/v1/completions": Generation(
        "completions",
        CompletionRequest,
        UNSUPPORTED_IN_COMPLETIONS,
        {"prompt": "The capital of China is", "max_tokens": 16},
        Completion,
    ),
}
"""The generation paths: limits, metrics, documents and tests use this table."""


class PromptBody(NamedTuple):
    """What FastAPI does not know about a path that only processes a prompt; as in ``Generation``."""

    name: str
    body: type[BaseModel]
    example: dict[str, Any]


PROMPT_BODIES = {
    "/tokenize": PromptBody("tokenize", TokenizeRequest, {"prompt": "The capital of China is"}),
    "/detokenize": PromptBody("detokenize", DetokenizeRequest, {"tokens": [1, 2, 3]}),
}
"""The paths that process a prompt without generating; they need a key and take a slot, as generation does."""
TOKENIZER_INFO_PATH = "/tokenizer_info"


def needs_key(path: str) -> bool:
    """Return whether a path needs an API key, if there are any."""
    return path == "/v1" or path.startswith("/v1/") or path in PROMPT_BODIES or path == TOKENIZER_INFO_PATH


def responses(answer: type[BaseModel] | None, *error_statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the argument ``responses`` of a route's decorator.

    Args:
        answer: the schema of its response; None if that is not JSON.
        error_statuses: the HTTP statuses of its errors.
    """
    described: dict[int | str, dict[str, Any]] = {} if answer is None else {200: {"model": answer}}
    for status in error_statuses:
        described[status] = {"model": ErrorAnswer, "description": "\n\n".join(_meanings(status))}
    other = {"model": ErrorAnswer, "description": "Any other error, in the same envelope"}
    return {**described, "default": other}


class DescribedApp(FastAPI):
    """A FastAPI application with a complete openapi.json."""

    def __init__(self, **named: Any) -> None:  # noqa: ANN401  FastAPI's arguments
        super().__init__(title="ernie-triton", version=VERSION, description=_DESCRIPTION, **named)

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        is_made = self.openapi_schema is not None
        document = super().openapi()
        if not is_made:
            _complete(document)
        return document


def _complete(document: dict[str, Any]) -> None:
    """Add what FastAPI does not know: bodies, streams and API keys."""
    paths, components = document["paths"], document["components"]
    for path, generation in GENERATIONS.items():
        components["schemas"] |= _schemas(generation.body, generation.chunk)
        _describe(paths[path]["post"], generation.body, generation.example)
        answer = paths[path]["post"]["responses"]["200"]
        answer["description"] = "The whole answer, or with stream the events of its chunks"
        answer["content"]["text/event-stream"] = {"schema": _reference(generation.chunk)}
    for path, prompt in PROMPT_BODIES.items():
        components["schemas"] |= _schemas(prompt.body)
        _describe(paths[path]["post"], prompt.body, prompt.example)
    components["securitySchemes"] = _SECRETS
    for path, operations in paths.items():
        if needs_key(path):
            for operation in operations.values():
                operation["security"] = [{}, *({name: []} for name in _SECRETS)]


def _meanings(status: int) -> list[str]:
    """Return the codes and meanings of the errors with a status."""
    meanings: dict[str, str] = {}
    for error in _errors(ErnieError):
        if error.status == status and error is not UnknownRoute:
            meanings.setdefault(error.code, (error.__doc__ or "").splitlines()[0])
    return [f"`{code}`: {meaning}" for code, meaning in meanings.items()]


def _errors(kind: type[ErnieError]) -> Iterator[type[ErnieError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _errors(child)


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the schemas of models, and of all that they refer to, by name."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


def _describe(operation: dict[str, Any], body: type[BaseModel], example: dict[str, Any]) -> None:
    operation["responses"]["200"]["headers"] = {"Warning": _WARNING}
    content = {"schema": _reference(body), "example": example}
    operation["requestBody"] = {"required": True, "content": {"application/json": content}}
