"""The start of ``serve`` for real: its time table, a model of a hub, an engine killed while it loads."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fakes.model_hub import ModelHub
from support import http
from support.paths import DENSE
from support.serving import STOP_DEADLINE_S, Serving

FLAGS = ("--port", "0", "--host", "127.0.0.1", "--dtype", "float32")
ID = "PaddlePaddle/ERNIE-4.5-Tiny-Paddle"


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    files = {path.name: path.read_bytes() for path in DENSE.iterdir() if path.is_file()}
    with ModelHub({ID.replace("PaddlePaddle", "baidu"): files}) as running:
        yield running


@pytest.fixture
def offline_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def table(output: list[str]) -> dict[str, float]:
    """Return the seconds of each stage in the time table, the total included."""
    first = next(index for index, line in enumerate(output) if line.startswith("Start-up"))
    last = next(index for index, line in enumerate(output) if index > first and line.startswith("total"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in output[first + 1 : last + 1]]
    return {row[0]: float(row[1]) for row in rows}


def test_a_model_of_a_hub_is_downloaded_and_served_and_the_start_is_accounted_for(
    hub: ModelHub, tmp_path: object, offline_proxies: None
) -> None:
    started = time.monotonic()
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    serving = Serving("serve", "--model", ID, *FLAGS, environment=environment)
    try:
        url = serving.wait_until_ready()
        waited = time.monotonic() - started
        models = http.get(f"{url}/v1/models").json()
        assert [model["id"] for model in models["data"]] == ["ERNIE-4.5-Tiny-Paddle"]
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        answer = http.post(f"{url}/v1/chat/completions", json=body)
        assert answer.json()["usage"]["completion_tokens"] > 0
    finally:
        serving.close()
    seconds = table(serving.output)
    total = seconds.pop("total")
    assert sum(seconds.values()) == pytest.approx(total, abs=0.1)
    assert abs(seconds["(not accounted for)"]) <= 0.1 * total
    assert total <= waited + 0.02  # the kernel counts a process's start in ticks of 0.01 s
    stages = {"model files", "tritonserver", "engine: KV cache (reserved)", "engine: warm-up step"}
    assert {*stages, "OpenAI frontend"} <= set(seconds)
    assert any("Model: " in line and "snapshots" in line for line in serving.output)


def test_an_engine_that_is_killed_while_it_loads_is_told_last_with_need_and_have() -> None:
    serving = Serving("serve", "--model", str(DENSE), *FLAGS)
    try:
        deadline = time.monotonic() + STOP_DEADLINE_S
        while not (engines := processes(serving, "ernie_backend")):
            assert time.monotonic() < deadline, serving.output
            time.sleep(0.005)
        engines[0].kill()
        assert serving.wait() == 1
        assert serving.leftovers() == []
    finally:
        serving.close()
    last = serving.output[-1]
    assert last.startswith("ernie-triton: ")
    assert re.search(r"SIGKILL.* \d+\.\d+ [MG]iB.* \d+\.\d\d GiB", last), "need and have"
    assert not any(line.startswith("  | ") for line in serving.output), "what it wrote stands there already"


def test_a_tritonserver_that_knows_no_unix_socket_is_told_with_the_way_out(tmp_path: Path) -> None:
    serving = serve_with(tmp_path / "tritonserver", 'echo "no address: $2 $3" >&2\nexit 1')
    try:
        assert serving.wait() == 1
        assert serving.leftovers() == []
    finally:
        serving.close()
    assert serving.output[-1].startswith("ernie-triton: tritonserver ended: it exited with status 1")
    assert re.search(f"{tmp_path}/tritonserver .*--triton-grpc-port", serving.output[-1])
    assert [line.partition(": ")[0] for line in serving.output].count("no address") == 1
    assert not any(line.startswith("  | ") for line in serving.output), "it stands there already"


def test_a_frontend_that_ends_while_triton_is_awaited_is_told_without_that_way_out(tmp_path: Path) -> None:
    serving = serve_with(tmp_path / "tritonserver", "exec sleep 300")
    try:
        deadline = time.monotonic() + STOP_DEADLINE_S
        while not (frontends := processes(serving, "ernie_frontend")):
            assert time.monotonic() < deadline, serving.output
            time.sleep(0.005)
        frontends[0].terminate()
        assert serving.wait() == 1
        assert serving.leftovers() == []
    finally:
        serving.close()
    assert serving.output[-1].startswith("ernie-triton: the OpenAI frontend ended: it ")
    assert "--triton-grpc-port" not in serving.output[-1]


def serve_with(tritonserver: Path, script: str) -> Serving:
    """Start ``serve`` with a shell script as the installed tritonserver."""
    tritonserver.write_text(f"#!/bin/sh\n{script}\n")
    tritonserver.chmod(0o755)
    path = f"{tritonserver.parent}:{os.environ['PATH']}"
    return Serving("serve", "--model", str(DENSE), *FLAGS, environment={"PATH": path})


def processes(serving: Serving, name: str) -> list[psutil.Process]:
    try:
        return serving.descendants(name)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ((resource.RLIMIT_NOFILE, 16), "open files .*16.* 256"),
        ((resource.RLIMIT_AS, 1200 << 20), "address space .*1200 MiB"),
        ((resource.RLIMIT_FSIZE, 0), "temporary directory"),
    ],
)
def test_what_the_system_refuses_is_one_line(limit: tuple[int, int], words: str, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from ernie_cli.main import main\n"
        f"resource.setrlimit({limit[0]}, ({limit[1]}, {limit[1]})); sys.argv[0] = 'ernie-triton'; main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "serve", "--model", str(DENSE), *FLAGS],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=STOP_DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert re.match(f"ernie-triton: .*{words}", ended.stderr.splitlines()[-1]), ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
