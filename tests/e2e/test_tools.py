"""Tool calls through the real frontend, tritonserver and engine: what random weights say is forced by grammar.

The embedded model has no tokens for calls, and its template shows it no tools; the two others have and do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.frontend_process import frontend_process
from support.paths import DATA
from support.thinking_model import thinking_model
from support.triton_server import EMBEDDED, TritonServer, add_entry

PLAIN, VL, X1 = "ernie-tiny", "ernie-45-vl-thinking", "ernie-x1"
THINKING = (VL, X1)
COLOURS, SIZES = ["red", "green", "blue"], ["s", "m", "l"]
PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {
                "colour": {"type": "string", "enum": COLOURS},
                "sizes": {"type": "array", "items": {"enum": SIZES}, "minItems": 1, "maxItems": 2},
                "wet": {"type": "boolean"},
            },
            "required": ["colour", "sizes", "wet"],
            "additionalProperties": False,
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}
FORCED: dict[str, Any] = {"tools": [PAINT, STOP], "tool_choice": "required"}


@pytest.fixture(scope="module")
def server(
    start_tritonserver: Callable[[Path], TritonServer], tmp_path_factory: pytest.TempPathFactory
) -> TritonServer:
    repository = tmp_path_factory.mktemp("repository")
    add_entry(repository, PLAIN, model=str(EMBEDDED / "weights"))
    for form in THINKING:
        model = thinking_model(repository.parent / f"{repository.name}-{form}", form)
        add_entry(repository, form, model=str(model), dtype="float32")
    return start_tritonserver(repository)


@pytest.fixture(scope="module")
def client(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("frontend") / "frontend.log"
    command = [sys.executable, "-m", "ernie_frontend", "--default-model", PLAIN]
    with frontend_process(command, server.grpc_port, log) as client:
        yield client


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    """Return a request whose thinking, if there is any, ends after 4 tokens."""
    common = {"messages": [{"role": "user", "content": "Paint the fence"}], "max_tokens": 300, "seed": 5}
    thinking = {} if model == PLAIN else {"reasoning_max_tokens": 4}
    return {"model": model, **common, **thinking, "temperature": 1.0, "top_p": 1.0, **fields}


def ask(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    answer = client.post("/v1/chat/completions", json=body_of(model, **fields))
    assert answer.status_code == 200, answer.text
    return answer


def choice_of(answer: httpx.Response) -> dict[str, Any]:
    [choice] = answer.json()["choices"]
    return dict(choice)


def streamed(client: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    """Return the choice that the chunks of a stream make."""
    events = ask(client, model, stream=True, **fields).text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    calls: dict[int, dict[str, Any]] = {}
    texts = {"content": "", "reasoning_content": ""}
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        for name in texts:
            texts[name] += delta[name] or ""
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(part["index"], {"function": {"arguments": ""}})
            call["function"]["arguments"] += part["function"].get("arguments", "")
            if "id" in part:
                call |= {"id": part["id"], "type": part["type"]}
                call["function"]["name"] = part["function"]["name"]
    return {
        **texts,
        "tool_calls": list(calls.values()),
        "finish_reason": chunks[-1]["choices"][0]["finish_reason"],
    }


def functions_of(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["function"]["name"], each["function"]["arguments"]) for each in message["tool_calls"]]


def check_call(name: str, arguments: str) -> None:
    given = json.loads(arguments)
    if name == "stop":
        assert given == {}
        return
    assert name == "paint"
    assert given.keys() == {"colour", "sizes", "wet"}
    assert given["colour"] in COLOURS
    assert 1 <= len(given["sizes"]) <= 2
    assert set(given["sizes"]) <= set(SIZES)
    assert isinstance(given["wet"], bool)


@pytest.mark.parametrize("model", [PLAIN, VL, X1])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
def test_a_forced_call_is_valid(client: httpx.Client, model: str, choice: object) -> None:
    for seed in range(3):
        fields = {**FORCED, "tool_choice": choice, "parallel_tool_calls": False, "seed": seed}
        whole = choice_of(ask(client, model, **fields))
        message = whole["message"]
        [(name, arguments)] = functions_of(message)
        check_call(name, arguments)
        assert choice == "required" or name == "paint"
        assert whole["finish_reason"] == "tool_calls"
        assert not message["content"]
        assert bool(message["reasoning_content"]) == (model != PLAIN)
        assert message["tool_calls"][0]["id"].startswith("chatcmpl-tool-")
        parts = streamed(client, model, **fields)
        assert functions_of(parts) == [(name, arguments)]
        assert (parts["content"], parts["reasoning_content"], parts["finish_reason"]) == (
            "",
            message["reasoning_content"] or "",
            "tool_calls",
        )


@pytest.mark.parametrize("model", [PLAIN, VL, X1])
def test_several_calls(client: httpx.Client, model: str) -> None:
    """Random weights rarely end an answer by themselves: the calls that are complete are valid."""
    calls = functions_of(choice_of(ask(client, model, **FORCED))["message"])
    assert calls
    for call in calls:
        check_call(*call)
    assert functions_of(streamed(client, model, **FORCED))[: len(calls)] == calls


def test_a_call_that_is_cut(client: httpx.Client) -> None:
    whole = choice_of(ask(client, PLAIN, **FORCED, max_tokens=6))
    assert whole["finish_reason"] == "length"
    assert not whole["message"]["tool_calls"]


def test_a_template_without_tools_is_said_in_a_header(client: httpx.Client) -> None:
    header = [ask(client, model, tools=[PAINT], max_tokens=8).headers.get("Warning") for model in (PLAIN, VL)]
    assert header[1] is None
    assert "does not show it any tools; it answers with text" in (header[0] or "")


@pytest.mark.parametrize("model", [None, VL, X1])
@pytest.mark.parametrize("name", ["tools", "tool_result"])
def test_fastdeploys_requests_word_for_word(client: httpx.Client, model: str | None, name: str) -> None:
    """Without a change they go to the embedded model; for the others, a model and a limit are added."""
    body = (DATA / "fastdeploy_requests" / f"{name}.json").read_text()
    if model is not None:
        body = body.replace("{", f'{{"model": "{model}", "max_tokens": 12, ', 1)
    answer = client.post("/v1/chat/completions", content=body.encode())
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_clients_of_triton_have_tools_as_well(server: TritonServer) -> None:
    conversation = {
        "messages": [{"role": "user", "content": "Hi"}],
        **FORCED,
        "tool_choice": {"type": "function", "function": {"name": "paint"}},
    }
    inputs = {"messages": json.dumps(conversation), "sampling_parameters": '{"max_tokens": 200, "seed": 1}'}
    answer = server.generate(inputs, PLAIN)
    assert answer.status_code == 200, answer.text
    call = json.loads(answer.json()["text_output"])
    assert call.keys() == {"name", "arguments"}
    check_call(call["name"], json.dumps(call["arguments"]))
    wrong = server.generate({**inputs, "messages": json.dumps({**conversation, "tools": []})}, PLAIN)
    assert "tool_choice needs tools" in wrong.text
