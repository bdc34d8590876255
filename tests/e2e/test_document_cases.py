"""Ten thousand requests that schemathesis makes of our OpenAPI document, to the whole stack: it lives on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import http
from support.document_cases import check_operations
from support.serving import Serving
from support.triton_server import EMBEDDED

NUM_CASES = 10_000


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving("serve", "--model", str(EMBEDDED / "weights"), "--port", "0", "--host", "127.0.0.1")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_ten_thousand_cases(serving: Serving) -> None:
    engines = [process.pid for process in serving.descendants("--socket-fd")]
    document = http.get(f"{serving.url}/openapi.json").json()
    num_bodies = sum(
        "requestBody" in each for methods in document["paths"].values() for each in methods.values()
    )
    statuses = check_operations(serving.url, -(-NUM_CASES // num_bodies), timeout_s=3500)
    assert sum(statuses.values()) >= NUM_CASES
    assert [process.pid for process in serving.descendants("--socket-fd")] == engines
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    answer = http.post(f"{serving.url}/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
