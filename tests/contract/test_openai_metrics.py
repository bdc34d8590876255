"""``/metrics``: what was counted, under FastDeploy's names, in one worker and in two, on either port."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes.triton_grpc import FakeTriton, Inference, Response, hang_after_first
from support import http
from support.free_ports import free_port
from support.waiting import WAIT_S, eventually

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
CHAT = {"messages": [{"role": "user", "content": "a secret"}]}


def samples(url: str) -> dict[str, float]:
    """Return every sample without labels, and the HTTP counter and count of durations by path and status."""
    answer = http.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "secret" not in answer.text
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if not sample.labels:
                found[sample.name.removeprefix("fastdeploy:")] = sample.value
            elif family.name == "http_requests":
                found[f"{sample.labels['path']} {sample.labels['status_code']}"] = sample.value
            elif sample.name == "http_request_duration_seconds_count":
                found[f"{sample.labels['path']} {sample.labels['status_code']} timed"] = sample.value
    return found


def post(url: str, stream: bool = False) -> httpx.Response:
    body = {**CHAT, "stream": stream}
    return http.post(f"{url}/v1/chat/completions", json=body)


def test_what_is_counted(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    async def fail(_: Inference) -> AsyncIterator[Response]:
        yield {"text_output": "Bei", "finish_reason": "", "num_input_tokens": 7, "num_output_tokens": 1}
        yield "engine_crashed: killed by signal 9"

    with run_frontend(triton.url) as url:
        for stream in (False, True, True):
            assert post(url, stream).status_code == 200
        triton.answer = fail
        assert post(url, True).status_code == 200
        assert post(url).status_code == 500
        for path in (
            "/v1/models",
            "/v1/models/ernie-tiny",
            "/v1/models/x",
            "/made/up",
            "/health",
            "/v1/completions",
        ):
            http.get(f"{url}{path}")
        found = samples(url)
    assert (found["requests_number_total"], found["request_success_total"]) == (5, 3)
    assert (found["prompt_tokens_total"], found["generation_tokens_total"]) == (4 * 7, 3 * 3 + 1)
    assert found["time_to_first_token_seconds_count"] == 3  # streams alone
    assert found["time_per_output_token_seconds_count"] == 2
    assert (found["e2e_request_latency_seconds_count"], found["request_prompt_tokens_sum"]) == (3, 21)
    assert found["/v1/models 200"] == found["/v1/models/* 200"] == found["/v1/models/* 404"] == 1
    assert found["other 404"] == found["/v1/completions 405"] == 1
    assert not [name for name in found if "health" in name or "made" in name]
    assert (found["/v1/chat/completions 200"], found["/v1/chat/completions 500"]) == (3, 2)


def test_guesses_are_counted(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    async def guess(_: Inference) -> AsyncIterator[Response]:
        counts = {"num_input_tokens": 7, "num_output_tokens": 4}
        guesses = {"num_accepted_drafts": 3, "num_rejected_drafts": 2}
        yield {"text_output": "Beijing", "finish_reason": "stop", **counts, **guesses}

    triton.answer = guess
    with run_frontend(triton.url) as url:
        for stream in (False, True):
            assert post(url, stream).status_code == 200
        found = samples(url)
    assert found["spec_decode_num_draft_tokens_total"] == 2 * 5
    assert found["spec_decode_num_accepted_tokens_total"] == 2 * 3


async def refuse(_: Inference) -> AsyncIterator[Response]:
    yield "model_unavailable: the engine is starting"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_failures_are_counted_and_timed_by_status(
    run_frontend: RunFrontend, triton: FakeTriton, path: str
) -> None:
    good = {**CHAT, "prompt": "a secret"}
    key = {"Authorization": "Bearer k"}
    limits = {"max_concurrency": 1, "max_body_bytes": 1000, "api_keys": ("k",), "served_model_name": "m"}

    def ask(url: str, headers: dict[str, str] = key, **body: object) -> httpx.Response:
        return http.post(f"{url}{path}", json=good | body, headers=headers)

    with run_frontend(triton.url, **limits) as url:
        assert ask(url, temperature=-1).status_code == 400
        assert ask(url, headers={}).status_code == 401
        assert ask(url, model="other").status_code == 404
        assert ask(url, user="x" * 1000).status_code == 413
        triton.answer = refuse
        assert ask(url).status_code == 503
        triton.answer = hang_after_first
        for stream in (True, False):
            gone = disconnected(url, path, good | {"stream": stream}, triton)
            assert gone == triton.cancelled.get(timeout=WAIT_S)
            while (refused := ask(url, user="x" * 1000)).status_code == 429:
                time.sleep(0.01)  # the one slot is not yet given back
            assert refused.status_code == 413
        with http.stream("POST", f"{url}{path}", json=good | {"stream": True}, headers=key) as held:
            assert held.status_code == 200
            assert ask(url).status_code == 429
        triton.cancelled.get(timeout=WAIT_S)
        eventually(lambda: samples(url).get(f"{path} 499") == 3)
        found = samples(url)
    expected = {400: 1, 401: 1, 404: 1, 413: 3, 503: 1, 499: 3}
    assert {status: found[f"{path} {status}"] for status in expected} == expected
    assert found[f"{path} 429"] >= 1
    assert f"{path} 200" not in found
    for name, value in found.items():
        if name.startswith("/") and not name.endswith("timed"):
            assert found[f"{name} timed"] == value
    assert found["request_success_total"] == found["e2e_request_latency_seconds_count"] == 0


def disconnected(url: str, path: str, body: object, triton: FakeTriton) -> str:
    """Ask, go away while the answer is made, and return the request's id."""
    before = len(triton.inferences)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nx-api-key: k\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        eventually(lambda: len(triton.inferences) > before)
    request_id = triton.inferences[-1].inputs["request_id"]
    assert isinstance(request_id, str)
    return request_id


def test_paths_and_methods_of_clients_make_no_series(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with run_frontend(triton.url) as url:
        for number in range(50):
            http.request(f"M{number}", f"{url}/made/{number}")
            http.get(f"{url}/v1/models/made-{number}")
            http.get(f"{url}/v1/completions%0A{number}")
        found = samples(url)
    labelled = {name for name in found if " " in name and "timed" not in name}
    assert labelled == {"other 404", "/v1/models/* 404"}


def test_the_engines_gauges(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    assert isinstance(triton.health, dict)
    triton.health |= {"running": 3, "waiting": 2, "free_blocks": 6, "total_blocks": 8}
    triton.health |= {"prefix_cache_queries": 100, "prefix_cache_hits": 25}
    with run_frontend(triton.url) as url:
        found = samples(url)
        assert (found["num_requests_running"], found["num_requests_waiting"]) == (3, 2)
        assert (found["free_gpu_block_num"], found["max_gpu_block_num"]) == (6, 8)
        assert (found["gpu_cache_usage_perc"], found["hit_token_rate"]) == (0.25, 0.25)
        triton.health = "Stub process 'x' is not healthy."
        assert "num_requests_running" not in samples(url)


def test_metrics_of_two_workers_on_a_port_of_their_own(triton: FakeTriton) -> None:
    metrics_port = free_port()
    command = [sys.executable, "-m", "ernie_frontend", "--host=127.0.0.1", "--port=0", "--workers=2"]
    command += [f"--metrics-port={metrics_port}", f"--triton-url={triton.url}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = process.stderr.readline().split("serving ")[1].split("/v1")[0]
            for _ in range(8):
                assert post(url).status_code == 200
            metrics_url = f"http://127.0.0.1:{metrics_port}"
            # A worker counts an answer when it has sent it; meanwhile another one may be asked.
            eventually(lambda: samples(metrics_url)["requests_number_total"] == 8)
            assert [samples(metrics_url)["requests_number_total"] for _ in range(6)] == [8] * 6
            for wrong in (f"{url}/metrics", f"{metrics_url}/v1/models", f"{metrics_url}/health"):
                answer = http.get(wrong)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
