"""Structured output through the real frontend, tritonserver and engine: the tiny model writes what it must."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from support.frontend_process import frontend_process
from support.json_schema_suite import NOT_ENFORCED, cases
from support.triton_server import TritonServer

pytestmark = pytest.mark.full  # test_frontend_fields.py has the shortest of it
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 5}, "b": {"enum": [1, None]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


class Stack(NamedTuple):
    """The same engine behind both APIs."""

    triton: TritonServer
    client: httpx.Client


@pytest.fixture(scope="module")
def stack(dense_server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    command, log = [sys.executable, "-m", "ernie_frontend"], tmp_path_factory.mktemp("frontend") / "log"
    with frontend_process(command, dense_server.grpc_port, log) as client:
        yield Stack(dense_server, client)


def _fits(text: str) -> bool:
    value = json.loads(text)
    return list(value) == ["a", "b"] and len(value["a"]) <= 5 and value["b"] in [1, None]


FORMS: list[tuple[dict[str, Any], Callable[[str], object]]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, _fits),
    ({"guided_json": json.dumps(SCHEMA)}, _fits),
    ({"guided_choice": ["yes", "no"]}, lambda text: text in {"yes", "no"}),
    ({"guided_regex": "[0-9]{3}"}, lambda text: re.fullmatch("[0-9]{3}", text)),
    ({"guided_grammar": 'root ::= "a" [0-9] "b"'}, lambda text: re.fullmatch("a[0-9]b", text)),
    ({"structured_outputs": {"choice": ["<think>"]}}, lambda text: text == "<think>"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("form", "fits"), FORMS, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_the_openai_client_gets_what_it_asks_for(
    stack: Stack, form: dict[str, Any], fits: Callable[[str], object], stream: bool
) -> None:
    client = openai.OpenAI(base_url=f"{stack.client.base_url}/v1", api_key="x")
    asked: dict[str, Any] = {"model": "m", "messages": MESSAGES, "n": 3, "temperature": 1.5, "max_tokens": 64}
    texts, reasons = {0: "", 1: "", 2: ""}, {}
    if stream:
        for chunk in client.chat.completions.create(**asked, extra_body=form, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason
    else:
        for whole in client.chat.completions.create(**asked, extra_body=form).choices:
            texts[whole.index], reasons[whole.index] = whole.message.content or "", whole.finish_reason
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}
    assert all(fits(text) for text in texts.values()), texts


def test_so_do_clients_of_triton(stack: Stack) -> None:
    sampling = json.dumps({"structured_outputs": {"json": SCHEMA}, "max_tokens": 64, "temperature": 1.5})
    answer = stack.triton.generate({"text_input": "Hi", "sampling_parameters": sampling})
    assert answer.status_code == 200, answer.text
    assert _fits(answer.json()["text_output"].removeprefix("Hi"))
    refusal = stack.triton.generate(
        {"text_input": "Hi", "sampling_parameters": json.dumps({"structured_outputs": {"regex": "["}})}
    )
    assert refusal.status_code == 400
    assert "unclosed" in refusal.text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"guided_json": {"properties": {"a": {"not": {}}}}}, "#/properties/a: "),
        ({"guided_regex": "["}, "unclosed"),
        ({"structured_outputs": {}}, "exactly one"),
    ],
)
def test_a_form_that_cannot_be_is_a_bad_request(stack: Stack, form: dict[str, Any], words: str) -> None:
    answer = stack.client.post("/v1/chat/completions", json={"messages": MESSAGES, **form})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["code"] == "invalid_value"


def test_hostile_forms_do_not_end_the_engine(stack: Stack) -> None:
    rules = "".join(f'r{number}: "a" r{number + 1}\n' for number in range(9_000))
    answer = stack.client.post(
        "/v1/completions", json={"prompt": "a", "guided_grammar": f'start: r0\n{rules}r9000: "b"'}, timeout=60
    )
    assert answer.status_code == 400
    assert "too large" in answer.json()["error"]["message"]
    good = stack.client.post("/v1/completions", json={"prompt": "a", "guided_choice": ["yes"]})
    assert good.json()["choices"][0]["text"] == "yes"


def test_the_json_schema_suite(stack: Stack) -> None:
    num_ended = 0
    for case in cases():
        body = {
            "prompt": "a",
            "max_tokens": 48,
            "temperature": 1.5,
            "seed": 1,
            "n": 2,
            "structured_outputs": {"json": case.schema},
        }
        answer = stack.client.post("/v1/completions", json=body, timeout=60)
        if answer.status_code == 400:
            assert any(reason in answer.json()["error"]["message"] for reason in NOT_ENFORCED), answer.text
            continue
        assert answer.status_code == 200, (case, answer.text)
        for choice in answer.json()["choices"]:
            if choice["finish_reason"] == "stop":
                case.check(choice["text"])
                num_ended += 1
    assert num_ended > 150
