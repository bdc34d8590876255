"""One request may fail; it may not silence, end or hold up the engine for the others."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from support.triton_server import TritonServer

QUICK_S = 15.0
"""A request next to a hostile one takes a moment; when one could freeze the engine it was 22 s, or forever."""


def answer_time(server: TritonServer) -> float:
    """Return the seconds that a small request takes."""
    begin = time.monotonic()
    answer = server.generate({"text_input": "Hi", "sampling_parameters": json.dumps({"max_tokens": 1})})
    assert answer.status_code == 200, answer.text
    return time.monotonic() - begin


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"messages": '{"messages": ' + "[" * 989 + "]" * 989 + "}"}, "invalid_value[messages]: "),
        (
            {"text_input": "a", "sampling_parameters": '{"temperature": 1' + "0" * 400 + "}"},
            "invalid_value[temperature]: ",
        ),
        ({"text_input": "a", "sampling_parameters": '{"\\ud800": 1}'}, "invalid_value["),
        ({"text_input": "word " * 2_000_000}, "context_length_exceeded"),
        ({"text_input": "word " * 5_600_000}, "invalid_value[text_input]: "),
        ({"input_ids": [5] * 1_000_000}, "context_length_exceeded"),
        (
            {"text_input": "a", "sampling_parameters": json.dumps({"stop": ["x"] * 100_000})},
            "invalid_value[stop]: ",
        ),
    ],
    ids=["nested", "huge number", "half a pair", "10 MB", "28 MB", "many ids", "many stops"],
)
def test_a_hostile_request_fails_alone(dense_server: TritonServer, body: dict[str, Any], error: str) -> None:
    server = dense_server
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(server.generate(body)))
    thread.start()
    times = [answer_time(server)]
    while thread.is_alive():
        times.append(answer_time(server))
    thread.join()
    assert answers[0].status_code == 400
    assert answers[0].json()["error"].startswith(error)
    times.append(answer_time(server))
    assert max(times) < QUICK_S
    assert server.control("describe")["generation"] == 1
