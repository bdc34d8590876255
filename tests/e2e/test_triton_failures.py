"""What happens around the engine process: killed in a stream, unloaded after drops, ended with the server."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support.frontend_process import frontend_process
from support.paths import ROOT
from support.triton_server import Stream, TritonServer
from support.waiting import eventually

RESTART_TARGET_S = 10.0
UNLOAD_TARGET_S = 3.0
DROPS = 60


@pytest.fixture(scope="module")
def server(start_tritonserver: Callable[..., TritonServer]) -> TritonServer:
    return start_tritonserver(ROOT / "model_repository", "--model-control-mode=explicit", "--load-model=*")


def long_stream(server: TritonServer) -> Stream:
    sampling = json.dumps({"max_tokens": 2000, "ignore_eos": True})
    stream = server.stream({"input_ids": [5], "stream": True, "sampling_parameters": sampling})
    stream.next()
    return stream


def engine_of(server: TritonServer) -> psutil.Process:
    (engine,) = server.descendants("ernie_backend")
    return engine


def test_a_killed_engine_ends_its_streams_and_the_next_request_is_served(server: TritonServer) -> None:
    stream = long_stream(server)
    os.kill(engine_of(server).pid, signal.SIGKILL)
    assert "SIGKILL" in stream.error()
    stream.close()
    begin = time.monotonic()
    assert server.generate({"text_input": "Hi"}).status_code == 200
    assert time.monotonic() - begin < 10 * RESTART_TARGET_S
    assert server.control("describe")["generation"] == 2


def test_of_the_launchers_server_only_its_user_reads_the_shared_memory(server: TritonServer) -> None:
    assert server.shared_memory()
    assert {region.stat().st_mode & 0o777 for region in server.shared_memory()} == {0o600}


def drop_a_client(port: int, chance: random.Random) -> None:
    """Go away at some time of a short answer, which often is about its end; a stream or not, of one or two."""
    body = {
        "model": "ernie-tiny",
        "prompt": "Hi",
        "max_tokens": 6,
        "ignore_eos": True,
        "n": chance.choice([1, 2]),
    }
    content = json.dumps({**body, "stream": chance.random() < 0.8}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + content)
        time.sleep(chance.random() * 0.04)


@pytest.mark.full
def test_after_dropped_clients_a_model_is_unloaded_soon(server: TritonServer, tmp_path: Path) -> None:
    """Triton 2.51 keeps what a gRPC call used that is cancelled while its last response is on the way."""
    command = [str(Path(sys.prefix) / "bin" / "ernie-triton-frontend")]
    with frontend_process(command, server.grpc_port, tmp_path / "frontend.log") as client:
        assert client.post("/v1/completions", json={"model": "ernie-tiny", "prompt": "Hi"}).status_code == 200
        with server.verbose_log() as log:
            for number in range(DROPS):
                drop_a_client(client.base_url.port or 0, random.Random(number))
            eventually(lambda: server.control("health")["running"] == 0)
    assert log.getvalue().count("Cancellation notification received") == 0
    server.unload("ernie-tiny", within_s=10 * UNLOAD_TARGET_S)
    assert server.descendants("ernie_backend") == []
    server.load("ernie-tiny")


@pytest.mark.full
def test_sigterm_leaves_no_process_and_no_shared_memory(server: TritonServer) -> None:
    processes, regions = server.descendants(), server.shared_memory()
    assert len(processes) >= 2
    assert regions
    stream = long_stream(server)
    stream.close(cancel=True)
    assert server.terminate() == 0
    assert not [process for process in processes if process.is_running()]
    assert not [region for region in regions if region.exists()]
