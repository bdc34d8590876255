"""Triton's own load generator runs against the server by the README's two commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.paths import ROOT
from support.triton_server import TritonServer

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


def test_both_commands(server: TritonServer) -> None:
    single, streamed = (run(command, server) for command in documented_commands())
    assert figure("Request count", single) >= 20
    assert figure("Response Throughput", single) == pytest.approx(figure("Throughput", single), rel=0.1)
    assert figure("Request count", streamed) >= 20
    assert figure("Response Throughput", streamed) > 2 * figure("Throughput", streamed)
