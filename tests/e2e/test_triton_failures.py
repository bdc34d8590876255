"""What happens around the engine process: killed in a stream, its stub killed, the server ended."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from e2e.triton_server import ROOT, Stream, TritonServer

RESTART_TARGET_S = 10.0


@pytest.fixture(scope="module")
def server(start_tritonserver: Callable[[Path], TritonServer]) -> TritonServer:
    return start_tritonserver(ROOT / "model_repository")


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
    assert "engine_crashed: the engine process ended: it was killed by SIGKILL" in stream.error()
    stream.close()
    begin = time.monotonic()
    assert server.generate({"text_input": "Hi"}).status_code == 200
    assert time.monotonic() - begin < 10 * RESTART_TARGET_S
    assert server.control("describe")["generation"] == 2


def test_of_the_launchers_server_only_its_user_reads_the_shared_memory(server: TritonServer) -> None:
    assert server.shared_memory()
    assert {region.stat().st_mode & 0o777 for region in server.shared_memory()} == {0o600}


def test_sigterm_leaves_no_process_and_no_shared_memory(server: TritonServer) -> None:
    processes, regions = server.descendants(), server.shared_memory()
    assert len(processes) >= 2
    assert regions
    stream = long_stream(server)
    stream.close(cancel=True)
    assert server.terminate() == 0
    assert not [process for process in processes if process.is_running()]
    assert not [region for region in regions if region.exists()]
