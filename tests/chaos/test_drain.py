"""SIGTERM under more answers than can end in time, through the real tritonserver."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import http
from support.serving import FLAGS, STOP_DEADLINE_S, Serving

NUM_STREAMS = 64
MAX_TOKENS = 100_000
DRAIN_S = 3


def answered(url: str) -> tuple[int, str, str | None]:
    """Ask for more than there is time for; return the status, the last that came, and Retry-After."""
    body = {"prompt": "Hi", "max_tokens": MAX_TOKENS, "ignore_eos": True, "stream": True}
    with httpx.Client(trust_env=False, timeout=STOP_DEADLINE_S) as client:
        response = client.post(f"{url}/v1/completions", json=body)
    return response.status_code, response.text[-600:], response.headers.get("Retry-After")


@pytest.mark.full
@pytest.mark.timeout(300)
def test_every_stream_ends_with_an_error_event_and_every_queued_request_with_503() -> None:
    serving = Serving("serve", *FLAGS, "--timeout-graceful-shutdown", str(DRAIN_S))
    try:
        url = serving.wait_until_ready()
        with ThreadPoolExecutor(NUM_STREAMS) as pool:
            asked = [pool.submit(answered, url) for _ in range(NUM_STREAMS)]
            running = f"{url}/metrics"
            while "fastdeploy:num_requests_running 8" not in http.get(running).text:
                assert not any(each.done() for each in asked)
            serving.process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asked]
        assert serving.wait() == 0
        begun = [text.split("\n\n")[-3:-1] for status, text, _ in answers if status == 200]
        assert all(done == "data: [DONE]" for _, done in begun)
        last = [json.loads(event.removeprefix("data: ")) for event, _ in begun]
        ended = [
            event for event in last if "error" in event
        ]  # the others came to the end of the context in time
        assert ended
        assert {event["error"]["code"] for event in ended} == {"model_unavailable"}
        assert {event["choices"][0]["finish_reason"] for event in last if "error" not in event} <= {"length"}
        queued = [(status, retry) for status, _, retry in answers if status != 200]
        assert all(status == 503 and retry for status, retry in queued), queued
        told = f"stopping: {len(ended) + len(queued)} answers end with an error"
        assert any(told in line for line in serving.output)
        assert not any("Traceback" in line for line in serving.output)
        assert serving.output[-1] == "Stopped."
        assert serving.leftovers() == []
    finally:
        serving.close()
