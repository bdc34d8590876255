"""``/openapi.json`` says what is, ``/docs`` shows it and loads nothing; a flag turns them off; ``/version``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import httpx
import openapi_spec_validator
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from ernie_frontend.schema import responses
from ernie_frontend.schema.openapi import GENERATIONS, PROMPT_BODIES, Generation, PromptBody
from ernie_frontend.schema.page import page
from fakes.triton_grpc import FakeTriton, Inference, Response, ready_model, tell
from support import http

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, Generation | PromptBody] = {**GENERATIONS, **PROMPT_BODIES}


def get(url: str) -> httpx.Response:
    return http.get(url)


def post(url: str, body: object) -> httpx.Response:
    return http.post(url, json=body)


@pytest.fixture(scope="module")
def document(frontend: str) -> dict[str, Any]:
    found: dict[str, Any] = get(f"{frontend}/openapi.json").json()
    return found


def references(part: object) -> Iterator[str]:
    if isinstance(part, Mapping):
        yield from [part["$ref"]] if "$ref" in part else []
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_the_document_is_whole(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == version("ernie-triton-frontend")
    schemas = document["components"]["schemas"]
    named = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert named == set(schemas)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert "HTTPValidationError" not in schemas
    for operation in operations:
        assert operation["description"]
        assert all(answer["description"] for answer in operation["responses"].values())


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document, cls=OpenAPIV31SpecValidator)


def test_every_path_is_there_and_answers(frontend: str, triton: FakeTriton, document: dict[str, Any]) -> None:
    served = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert served == {
        *((path, "post") for path in (*GENERATIONS, *PROMPT_BODIES)),
        ("/tokenizer_info", "get"),
        ("/v1/models", "get"),
        ("/v1/models/{name}", "get"),
        ("/health", "get"),
        ("/metrics", "get"),
        ("/version", "get"),
    }
    for path, method in served:
        example = document["paths"][path][method].get("requestBody", {}).get("content", {})
        body = example["application/json"]["example"] if example else None
        url = f"{frontend}{path.format(name='ernie-tiny')}"
        answer = http.request(method, url, json=body)
        assert answer.status_code == 200, path
        kinds = document["paths"][path][method]["responses"]["200"].get("content", {"": {}})
        assert answer.headers.get("content-type", "").partition(";")[0] in kinds


@pytest.mark.parametrize("path", BODIES)
def test_every_field_of_a_request_is_there(document: dict[str, Any], path: str) -> None:
    model = BODIES[path].body
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
    schema = document["components"]["schemas"][model.__name__]
    assert list(schema["properties"]) == list(model.model_fields)
    for name, field in schema["properties"].items():
        assert field["description"], name
        assert {"type", "anyOf", "$ref", "enum"} & set(field), name
        assert field.get("default", None) is None


def test_limits_are_those_of_json_schema(document: dict[str, Any]) -> None:
    """Pydantic writes a limit that it does not understand as a word of its own, which no client knows."""
    known = {"type", "anyOf", "items", "properties", "additionalProperties", "required", "enum", "const"}
    known |= {"$ref", "title", "description", "default", "pattern", "minimum", "maximum"}
    known |= {"exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "minLength", "maxLength"}
    schemas = document["components"]["schemas"]
    assert {word for schema in schemas.values() for word in words_of(schema)} <= known
    chat, completion = (schemas[GENERATIONS[path].body.__name__]["properties"] for path in (CHAT, COMPLETIONS))
    for field, least in (
        (chat["n"], 1),
        (chat["top_logprobs"], -1),
        (chat["max_tokens"], 1),
        (completion["max_tokens"], 0),
    ):
        assert field["anyOf"] == [{"type": "integer", "minimum": least}, {"type": "null"}]


def words_of(schema: object) -> Iterator[str]:
    """Yield the keywords in a schema and in those within it; what is no object has none."""
    if not isinstance(schema, dict):
        return
    yield from schema
    within = [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())]
    for part in (*within, *schema.get("properties", {}).values()):
        yield from words_of(part)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "two answers": {"n": 2},
    "log probabilities": {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": 1},
    "token ids": {"return_token_ids": True},
    "usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "all": {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "prompt_logprobs": 1,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    },
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_real_answers_are_as_described(
    frontend: str, triton: FakeTriton, document: dict[str, Any], options: dict[str, Any], stream: bool
) -> None:
    """No field is in one and not in the other: the classes forbid others, and all fields are seen in "all"."""
    if not stream:
        options = {name: value for name, value in options.items() if name != "stream_options"}
    echo = {"echo": True, "logprobs": 2} if "logprobs" in options else {"echo": True}
    completion = {
        name: value for name, value in (options | echo).items() if name not in ("top_logprobs", "tools")
    }
    if "tools" in options:
        triton.models = {"ernie-tiny": ready_model(tool_call_parser="ernie-x1")}
        triton.answer = call_and_repeat
    for path, generation in GENERATIONS.items():
        body = generation.example | (completion if path == COMPLETIONS else options)
        answer = post(f"{frontend}{path}", body | {"stream": stream})
        assert answer.status_code == 200, answer.text
        kind = "text/event-stream" if stream else "application/json"
        described = document["paths"][path]["post"]["responses"]["200"]["content"][kind]["schema"]["$ref"]
        model: type[BaseModel] = getattr(responses, described.rpartition("/")[2])
        seen: set[str] = set()
        texts = answer.text.strip().split("\n\n")[:-1] if stream else [answer.text]
        for text in texts:
            read = model.model_validate_json(text.removeprefix("data: "), strict=True)
            seen |= set(paths_of(read.model_dump(exclude_unset=True)))
        if options.get("n") and options.get("logprobs"):
            assert seen >= set(paths_of_model(document, described))


async def call_and_repeat(inference: Inference) -> AsyncIterator[Response]:
    """Answer with a call; then the answer ends since it repeats itself."""
    pieces = ("«tool_call»", '{"name": "f", "arguments": {}}', "«/tool_call»")
    async for response in tell(inference, pieces):
        assert isinstance(response, dict)
        yield {**response, **({"stop_reason": "repetition_detected"} if response["finish_reason"] else {})}


def paths_of(part: object, prefix: str = "") -> Iterator[str]:
    """Yield the names of all fields in an object, with dots between them."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield prefix + name
            yield from paths_of(value, f"{prefix}{name}.")
    elif isinstance(part, list):
        for each in part:
            yield from paths_of(each, prefix)


def paths_of_model(document: dict[str, Any], reference: str, prefix: str = "") -> Iterator[str]:
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    for name, field in schema["properties"].items():
        yield prefix + name
        for inner in references({**field, "items": field.get("items", {})}):
            if not inner.endswith("RankedToken"):  # its place is under a token id
                yield from paths_of_model(document, inner, f"{prefix}{name}.")


def test_other_answers_are_as_described(frontend: str, triton: FakeTriton) -> None:
    responses.ModelList.model_validate_json(get(f"{frontend}/v1/models").text, strict=True)
    responses.ModelCard.model_validate_json(get(f"{frontend}/v1/models/ernie-tiny").text, strict=True)
    responses.Version.model_validate_json(get(f"{frontend}/version").text, strict=True)
    for error in (get(f"{frontend}/nothing"), post(f"{frontend}{CHAT}", {})):
        responses.ErrorAnswer.model_validate_json(error.text, strict=True)


def test_every_error_of_a_generation_is_described(document: dict[str, Any]) -> None:
    for path in GENERATIONS:
        described = document["paths"][path]["post"]["responses"]
        statuses = (200, 400, 401, 404, 408, 413, 415, 429, 500, 503)
        assert set(described) == {*map(str, statuses), "default"}
        assert "`context_length_exceeded`: " in described["400"]["description"]
        assert "`engine_crashed`: " in described["500"]["description"]
        for status, answer in described.items():
            if status != "200":
                content = answer["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}


def test_either_key_is_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            is_guarded = path.startswith("/v1/") or path in ("/tokenize", "/detokenize", "/tokenizer_info")
            keys = {"bearer", "x-api-key"} if is_guarded else set()
            assert {name for one in operation.get("security", ()) for name in one} == keys
    assert set(document["components"]["securitySchemes"]) == {"bearer", "x-api-key"}


def test_the_page_shows_all_and_loads_nothing(frontend: str, document: dict[str, Any]) -> None:
    answer = get(f"{frontend}/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    shown = answer.text
    for path in document["paths"]:
        assert f"<code>{path}</code>" in shown
    for schema in document["components"]["schemas"].values():
        for name in schema.get("properties", {}):
            assert f"<code>{name}</code>" in shown
    anchors = set(re.findall(r"id=(\w+)", shown))
    links = set(re.findall(r"href=([^>]+)", shown))
    assert links - {f"#{name}" for name in anchors} == {"openapi.json", "data:,"}
    assert not re.search(r"<script|<img|<iframe|src=|url\(|@import|https?://|\son\w+=", shown)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    [style] = re.findall(r"<style>(.*?)</style>", shown, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert (policy["default-src"], policy["style-src"]) == ("'none'", f"'sha256-{digest}'")
    assert "style=" not in shown
    assert policy["frame-ancestors"] == "'none'"


def test_they_need_no_key_and_a_flag_turns_them_off(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, api_keys=("k",)) as url:
        for path in ("/docs", "/openapi.json", "/version"):
            assert get(f"{url}{path}").status_code == 200
        assert get(f"{url}/v1/models").status_code == 401
    with run_frontend(triton.url, has_docs=False) as url:
        for path in ("/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"):
            answer = get(f"{url}{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        assert get(f"{url}/version").json() == {"version": version("ernie-triton-frontend")}


def test_the_page_escapes_what_it_shows() -> None:
    bad = "<script>alert('x')</script>"
    schema = {"description": bad, "properties": {bad: {"enum": [bad], "description": f"`{bad}`"}}}
    content = {
        bad: {"schema": {"$ref": f"#/components/schemas/{bad}"}, "example": json.loads(json.dumps([bad]))}
    }
    operation = {
        "description": bad,
        "requestBody": {"content": content},
        "responses": {bad: {"description": bad, "content": content}},
    }
    shown = page(
        {
            "info": {"title": bad, "version": bad, "description": bad},
            "paths": {bad: {"post": operation}},
            "components": {"schemas": {bad: schema}},
        }
    )
    assert "<script" not in shown
