"""Requests at random from the schema, and beside it: never a 5xx, always an answer or the error envelope."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ernie_frontend.schema.openapi import GENERATIONS, PROMPT_BODIES, Generation, PromptBody
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS
from fakes.triton_grpc import FakeTriton, ready_model
from support import http

pytest_plugins = ("support.frontend_server",)

# Half a surrogate pair cannot be sent as JSON by httpx; test_openai_errors sends one as bytes.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 130),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0.0, 0.5, 1.0, 1e-9, 1e308]),
    TEXT,
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
URLS = TEXT | st.sampled_from(
    ["data:,x", "data:;base64,QUI=", "DATA:;base64,Q", "http://127.0.0.1/", "file:///a"]
)
MEDIA = URLS | st.fixed_dictionaries(
    {"url": URLS | JSON},
    optional={
        "detail": st.sampled_from(["low", "odd"]) | JSON,
        "max_pixels": JSON,
        "fps": JSON,
        "subtitles": JSON,
        "media": JSON,
    },
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "video_url", "image", "input_image", "video", "odd"])},
    optional={"text": JSON, **dict.fromkeys(("image_url", "video_url", "image", "video"), MEDIA | JSON)},
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "bot", "tool"])},
        optional={
            "content": TEXT | st.lists(PARTS, max_size=2) | JSON,
            "name": TEXT,
            "tool_calls": st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2) | JSON,
        },
    ),
    max_size=3,
)
FUNCTIONS = st.fixed_dictionaries(
    {"name": TEXT}, optional={"parameters": JSON, "description": JSON, "strict": JSON}
)
SCHEMAS = JSON | st.fixed_dictionaries(
    {"type": st.sampled_from(["object", "string"])}, optional={"properties": JSON}
)
TAGS = st.fixed_dictionaries({"begin": TEXT, "end": TEXT}, optional={"schema": SCHEMAS})
TOKEN_IDS = st.lists(st.integers(-1, 1001), max_size=4)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES | TOKEN_IDS,
    "prompt": TEXT | st.lists(TEXT, max_size=3) | TOKEN_IDS | st.lists(TOKEN_IDS, max_size=3),
    "prompt_token_ids": TOKEN_IDS | st.lists(TOKEN_IDS, max_size=2),
    "completion_token_ids": TOKEN_IDS,
    "stop": st.lists(TEXT, max_size=3),
    "bad_words": st.lists(TEXT, max_size=3),
    "logit_bias": st.dictionaries(st.integers(-1, 2000).map(str), st.floats(-101, 101), max_size=3),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans() | JSON}),
    "chat_template_kwargs": st.dictionaries(
        st.sampled_from(["enable_thinking", "options", "messages", "x"]), JSON
    ),
    "metadata": st.dictionaries(st.sampled_from(["temperature", "n", "raw_request", "stop", "x"]), JSON),
    "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTIONS}), max_size=2),
    "tool_choice": st.sampled_from(["none", "auto", "required"])
    | st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTIONS}),
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "structural_tag", "x"])},
        optional={
            "json_schema": st.fixed_dictionaries(
                {}, optional={"name": JSON, "schema": SCHEMAS, "strict": JSON}
            ),
            "schema": SCHEMAS,
            "structures": st.lists(TAGS, max_size=2) | JSON,
            "triggers": st.lists(TEXT, max_size=2) | JSON,
            "format": JSON,
        },
    ),
    "mm_processor_kwargs": st.dictionaries(
        st.sampled_from(["max_pixels", "image_max_pixels", "video_fps", "x"]), st.integers(0, 9) | JSON
    ),
    "guided_json": SCHEMAS,
    "guided_choice": st.lists(TEXT, max_size=3),
    "guided_regex": TEXT,
    "structural_tag": TEXT | st.fixed_dictionaries({"structures": st.lists(TAGS), "triggers": st.lists(TEXT)}),
    "structured_outputs": st.dictionaries(
        st.sampled_from(["json", "json_object", "regex", "choice", "grammar", "structural_tag", "x"]),
        JSON | SCHEMAS,
        max_size=2,
    ),
    "tokens": TOKEN_IDS,
}


OF_TYPE = {
    "bool | None": st.booleans(),
    "int | None": st.integers(0, 4),
    "float | None": st.floats(0, 1),
    "str | None": TEXT,
    "list[int] | None": st.lists(st.integers(0, 999), min_size=1, max_size=3),
}


def requests(generation: Generation | PromptBody) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of one endpoint: the fields of the right type, of a likely one, or anything."""
    needed, right = next(iter(generation.example.items()))
    schema = generation.body.model_fields
    fields = {name: str(field.annotation) for name, field in schema.items() if name != needed}
    typed = {name: OF_TYPE[kind] for name, kind in fields.items() if kind in OF_TYPE}
    likely = {name: LIKELY.get(name, typed.get(name, SCALARS)) | JSON for name in fields}
    refused = dict.fromkeys(sorted(UNSUPPORTED_IN_CHAT | UNSUPPORTED_IN_COMPLETIONS), JSON)
    return st.one_of(
        _some(typed).map(lambda body: {needed: right, **body}),
        st.fixed_dictionaries({needed: LIKELY[needed]}, optional=likely | refused),
        st.dictionaries(st.sampled_from([needed, *fields]), JSON, max_size=4),
    )


def _some(strategies: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.lists(st.sampled_from(sorted(strategies)), max_size=5, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: strategies[name] for name in chosen}))


def check(url: str, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    answer = http.post(f"{url}{path}", content=content)
    event(f"status {answer.status_code}")
    assert answer.status_code in (200, 400), (answer.status_code, answer.text, body)
    if answer.status_code == 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert error["type"] == "invalid_request_error"
    elif body.get("stream") and path in GENERATIONS:
        assert answer.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in answer.text
    else:
        json.loads(answer.text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


DESCRIBED: dict[str, Generation | PromptBody] = {**GENERATIONS, **PROMPT_BODIES}
BODIES = {path: requests(each) for path, each in DESCRIBED.items()}
FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.parametrize("path", BODIES)
@FUZZ
@given(data=st.data())
def test_bodies(frontend: str, triton: FakeTriton, path: str, data: st.DataObject) -> None:
    check(frontend, path, data.draw(BODIES[path]))


@FUZZ
@given(parts=st.lists(PARTS, min_size=1, max_size=3), stream=st.booleans())
def test_media(frontend: str, triton: FakeTriton, parts: list[dict[str, Any]], stream: bool) -> None:
    """A model that sees gets what its request has, or the request is refused."""
    triton.models = {"ernie-tiny": ready_model(modalities=("text", "image", "video"))}
    check(
        frontend, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}], "stream": stream}
    )


@FUZZ
@given(
    body=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    path=st.sampled_from(list(BODIES)),
)
def test_any_bytes(frontend: str, triton: FakeTriton, body: bytes, path: str) -> None:
    answer = http.post(f"{frontend}{path}", content=body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
