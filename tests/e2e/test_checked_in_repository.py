"""The repository as it is checked in, in one tritonserver.

Entries without weights say so; Triton's own load generator runs by the README's two commands; and a killed stub
leaves no engine behind.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_cli.presets.rows import ENTRIES
from support.paths import ROOT
from support.triton_server import TritonServer
from support.waiting import eventually

README_PORT = "127.0.0.1:8001"


def documented_commands() -> list[str]:
    """Return the README's perf_analyzer commands."""
    lines = (ROOT / "README.md").read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip().startswith(".venv/bin/perf_analyzer ")]


def run(command: str, server: TritonServer) -> str:
    """Run a command of the README against a server on another port; return what it prints."""
    words = shlex.split(command.replace(README_PORT, f"127.0.0.1:{server.grpc_port}"))
    words[0] = str(Path(sys.prefix) / "bin" / "perf_analyzer")
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def figure(name: str, report: str) -> float:
    """Return a figure of the report."""
    found = re.search(rf"^ *{name}: ([0-9.]+)", report, re.MULTILINE)
    assert found is not None, report
    return float(found[1])


@pytest.fixture(scope="module")
def server(start_tritonserver: Callable[[Path], TritonServer]) -> TritonServer:
    return start_tritonserver(ROOT / "model_repository")


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_without_weights_loads_and_says_where_they_belong(server: TritonServer, entry: str) -> None:
    error = server.generate({"text_input": "Hi"}, entry).json()["error"]
    assert error.startswith("model_unavailable: ")
    assert f"$ERNIE_MODEL_ROOT/{entry}" in error


def test_both_commands_of_perf_analyzer(server: TritonServer) -> None:
    single, streamed = (run(command, server) for command in documented_commands())
    assert figure("Request count", single) >= 20
    assert figure("Response Throughput", single) == pytest.approx(figure("Throughput", single), rel=0.1)
    assert figure("Request count", streamed) >= 20
    assert figure("Response Throughput", streamed) > 2 * figure("Throughput", streamed)


def test_a_killed_stub_takes_its_engine_along(server: TritonServer) -> None:
    (engine,) = server.descendants("ernie_backend")
    stub = engine.parent()
    assert stub is not None
    assert "triton_python_backend_stub" in stub.name() + " ".join(stub.cmdline())
    os.kill(stub.pid, signal.SIGKILL)
    eventually(lambda: not engine.is_running())
