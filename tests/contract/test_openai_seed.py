"""The text requests of the FastDeploy documentation, word for word: by the official client, and as by curl."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from ernie_backend.chat.messages import normalize_messages
from fakes.triton_grpc import FakeTriton
from support import http
from support.paths import DATA

pytest_plugins = ("support.frontend_server",)

WEATHER = "location: Beijing，temperature: 23，weather: sunny，unit: c"
REQUESTS = DATA / "fastdeploy_requests"
"""Bodies of its examples of curl."""


@pytest.fixture
def client(frontend: str, triton: FakeTriton) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{frontend}/v1", api_key="null", max_retries=0)


def test_completions_stream(client: openai.OpenAI) -> None:
    response = client.completions.create(
        model="null",
        prompt="Where is the capital of China?",
        stream=True,
    )
    assert "".join(chunk.choices[0].text for chunk in response) == "Beijing."


def test_chat_stream(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        model="null",
        messages=[
            {"role": "user", "content": "Where is the capital of China?"},
        ],
        stream=True,
    )
    printed = ""
    for chunk in response:
        if chunk.choices[0].delta:
            printed += str(chunk.choices[0].delta.content)
    assert printed == "Beijing."


def test_the_thinking_clients_loop(client: openai.OpenAI) -> None:
    """The loop of the vision examples, with text: it reads reasoning_content of each chunk without a role."""
    response: Any = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": [{"type": "text", "text": "请描述图片内容"}]}],
        temperature=0.0001,
        max_tokens=10000,
        stream=True,
        top_p=0,
        metadata={"enable_thinking": False},  # type: ignore[dict-item]
    )

    def get_str(content_raw: object) -> str:
        return str(content_raw) if content_raw is not None else ""

    printed = ""
    for chunk in response:
        if chunk.choices[0].delta is not None and chunk.choices[0].delta.role != "assistant":
            reasoning_content = get_str(chunk.choices[0].delta.reasoning_content)
            content = get_str(chunk.choices[0].delta.content)
            printed += reasoning_content + content
    assert printed == "Beijing."


@pytest.mark.parametrize(
    "body",
    [
        """{
  "messages": [
    {"role": "user", "content": "Where is the capital of China?"}
  ]
}""",
        """{
  "messages": [
    {"role": "user", "content": "把李白的静夜思改写为现代诗"}
  ]
}""",
    ],
)
def test_curl(frontend: str, triton: FakeTriton, body: str) -> None:
    answer = http.post(
        f"{frontend}/v1/chat/completions",
        headers={"Content-Type": "application/json"},
        content=body.encode(),
    )
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Beijing."


def test_curl_with_tools(frontend: str, triton: FakeTriton) -> None:
    body = (REQUESTS / "tools.json").read_bytes()
    answer = http.post(f"{frontend}/v1/chat/completions", content=body)
    assert answer.status_code == 200
    assert triton.inferences[0].messages["tools"] == json.loads(body)["tools"]
    [message] = normalize_messages(triton.inferences[0].messages["messages"])
    assert message["content"].startswith("Is the old lady on the left side")


def test_curl_with_a_tool_result(frontend: str, triton: FakeTriton) -> None:
    body = (REQUESTS / "tool_result.json").read_bytes()
    answer = http.post(f"{frontend}/v1/chat/completions", content=body)
    assert answer.status_code == 200
    sent = triton.inferences[0].messages
    assert sent["tools"] == json.loads(body)["tools"]
    messages = normalize_messages(sent["messages"])
    assert [message["content"] for message in messages] == [
        "Get the current weather in Beijing",
        "",
        WEATHER,
    ]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"location": "Beijing", "unit": "c"}


def test_curl_with_an_image_is_refused_with_a_reason(frontend: str, triton: FakeTriton) -> None:
    body = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://example.invalid/example2.jpg"}},
                    {"type": "text", "text": "图中的文物属于哪个年代?"},
                ],
            }
        ]
    }
    answer = http.post(f"{frontend}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("messages", "invalid_value")
    assert "messages[0].content[0]: this model reads text, and no images" in error["message"]
