"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``: their forms, errors, keys and limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from ernie_frontend.schema import responses
from ernie_wire.status import Status, answer_text
from fakes.descriptions import description
from fakes.triton_grpc import PROMPT, FakeTriton, Inference, Response, hang_after_first
from support import http

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
PATHS = ("/tokenize", "/detokenize", "/tokenizer_info")


def ask(url: str, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"{url}{path}", json=body)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_raw_prompt(frontend: str, triton: FakeTriton) -> None:
    answer = ask(frontend, "/tokenize", prompt="Hi", add_special_tokens=False)
    assert answer == {"count": 7, "max_model_len": 2048, "tokens": [1, 2, 3, 4, 5, 6, 7], "token_strs": None}
    responses.TokenizedPrompt.model_validate(answer, strict=True)
    [inference] = triton.inferences
    assert inference.inputs["text_input"] == "Hi"
    assert inference.sampling == {"max_tokens": 0}
    assert "stream" not in inference.inputs


def test_a_conversation_has_the_prompt_of_chat(frontend: str, triton: FakeTriton) -> None:
    body = {
        "messages": MESSAGES,
        "tools": TOOLS,
        "chat_template_kwargs": {"a": 1},
        "enable_thinking": False,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "n": 2,
        "stream": True,
        "temperature": 0.5,
        "logprobs": True,
        "user": "u",
        "guided_regex": "a",
    }
    assert ask(frontend, "/tokenize", **body, return_token_strs=True)["token_strs"] == list(PROMPT)
    http.post(f"{frontend}/v1/chat/completions", json=body | {"n": 1})
    counted, generated = triton.inferences
    assert counted.messages == generated.messages
    assert counted.sampling == {"max_tokens": 0}


def test_texts_of_tokens_that_are_no_characters(frontend: str, triton: FakeTriton) -> None:
    async def halves(inference: Inference) -> AsyncIterator[Response]:
        assert inference.inputs["return_prompt_bytes"]
        yield {
            "text_output": "",
            "finish_reason": "length",
            "num_input_tokens": 3,
            "prompt_ids": [7, 8, 9],
            "prompt_text": "\u4e2d!",
            "prompt_bytes": [b"\xe4\xb8", b"\xad", b"!"],
        }

    triton.answer = halves
    answer = ask(frontend, "/tokenize", prompt="\u4e2d!", return_token_strs=True)
    assert answer["token_strs"] == ["bytes:\\xe4\\xb8", "bytes:\\xad", "!"]


def test_detokenize(frontend: str, triton: FakeTriton) -> None:
    answer = ask(frontend, "/detokenize", tokens=[1, 2.0, 3])
    assert answer == {"prompt": "".join(PROMPT)}
    responses.DetokenizedText.model_validate(answer, strict=True)
    assert triton.inferences[0].inputs["input_ids"] == [1, 2, 3]
    assert ask(frontend, "/detokenize", tokens=[])["prompt"] == "".join(PROMPT)


def test_the_tokenizer_of_a_model(frontend: str, triton: FakeTriton) -> None:
    engine = description(special_tokens={"eos_token": "</s>", "cls_token": "<c>"}, chat_template="{{ x }}")
    ready = json.loads(answer_text(Status("ready", engine=engine)))
    triton.models = {"ernie-tiny": ready, "other": json.loads(answer_text(Status("starting")))}
    answer = http.get(f"{frontend}/tokenizer_info").json()
    assert answer == {
        "eos_token": "</s>",
        "bos_token": None,
        "pad_token": None,
        "cls_token": "<c>",
        "chat_template": "{{ x }}",
        "model_max_length": 2048,
    }
    responses.TokenizerInfo.model_validate(answer, strict=True)
    assert http.get(f"{frontend}/tokenizer_info?model=ernie-tiny").json() == answer
    error = refusal(http.get(f"{frontend}/tokenizer_info?model=other"), 503)
    assert error["code"] == "model_unavailable"


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("/tokenize", {}, "prompt", "missing_required_parameter"),
        ("/tokenize", {"prompt": None, "messages": None}, "prompt", "missing_required_parameter"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt", "invalid_value"),
        ("/tokenize", {"prompt": ["a"]}, "prompt", "invalid_value"),
        ("/tokenize", {"messages": []}, "messages", "invalid_value"),
        ("/tokenize", {"messages": [{"role": "x"}]}, "messages", "invalid_value"),
        ("/tokenize", {"prompt": "a", "return_token_strs": 1}, "return_token_strs", "invalid_value"),
        ("/detokenize", {}, "tokens", "missing_required_parameter"),
        ("/detokenize", {"tokens": None}, "tokens", "invalid_value"),
        ("/detokenize", {"tokens": "a"}, "tokens", "invalid_value"),
        ("/detokenize", {"tokens": [1000]}, "tokens", "invalid_value"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "invalid_value"),
        ("/detokenize", {"tokens": [1], "model": 5}, "model", "invalid_value"),
    ],
)
def test_wrong_bodies(
    frontend: str, triton: FakeTriton, path: str, body: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(http.post(f"{frontend}{path}", json=body))
    assert (error["param"], error["code"]) == (param, code)
    assert not triton.inferences


def test_errors_of_the_engine_and_unknown_fields(frontend: str, triton: FakeTriton) -> None:
    answer = http.post(f"{frontend}/detokenize", json={"tokens": [1], "x": 1})
    assert answer.headers["warning"] == '299 - "unknown fields are ignored: x"'
    answer = http.post(f"{frontend}/tokenize", json={"prompt": "a", "x": 1})
    assert answer.headers["warning"] == '299 - "unknown fields are ignored: x"'

    async def refuse(_: Inference) -> AsyncIterator[Response]:
        yield "context_length_exceeded[text_input]: too long"

    triton.answer = refuse
    error = refusal(http.post(f"{frontend}/tokenize", json={"prompt": "a"}))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


def test_a_model_without_a_tokenizer(frontend: str, triton: FakeTriton) -> None:
    engine = description(has_tokenizer=False)
    triton.models = {"ernie-tiny": json.loads(answer_text(Status("ready", engine=engine)))}
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        error = refusal(http.post(f"{frontend}{path}", json=body))
        assert "no tokenizer" in error["message"]


def test_they_need_a_key(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, api_keys=("k",)) as url:
        for path in PATHS:
            assert refusal(http.get(f"{url}{path}"), 401)["code"] == "invalid_api_key"
        headers = {"Authorization": "Bearer k"}
        assert http.get(f"{url}/tokenizer_info", headers=headers).status_code == 200
        assert http.post(f"{url}/tokenize", json={"prompt": "a"}, headers=headers).status_code == 200


def test_an_unknown_model(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url, served_model_name="ernie") as url:
        for answer in (
            http.post(f"{url}/tokenize", json={"prompt": "a", "model": "x"}),
            http.post(f"{url}/detokenize", json={"tokens": [1], "model": "x"}),
            http.get(f"{url}/tokenizer_info?model=x"),
        ):
            assert refusal(answer, 404)["code"] == "model_not_support"


def test_they_count_for_the_limit_of_concurrency(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    triton.answer = hang_after_first
    body = {"messages": MESSAGES, "stream": True}
    with (
        run_frontend(triton.url, max_concurrency=1) as url,
        http.stream("POST", f"{url}/v1/chat/completions", json=body) as first,
    ):
        pieces = first.iter_bytes()  # kept: dropping it would close the connection
        next(pieces)
        for path, refused in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            answer = http.post(f"{url}{path}", json=refused)
            assert refusal(answer, 429)["code"] == "queue_full"
            assert answer.headers["retry-after"]
        assert http.get(f"{url}/tokenizer_info").status_code == 200
