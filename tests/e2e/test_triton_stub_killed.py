"""The repository as it is checked in: entries without weights say so; a killed stub leaves no engine behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_cli.presets.rows import ENTRIES
from support.paths import ROOT
from support.triton_server import TritonServer
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(start_tritonserver: Callable[[Path], TritonServer]) -> TritonServer:
    return start_tritonserver(ROOT / "model_repository")


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_without_weights_loads_and_says_where_they_belong(server: TritonServer, entry: str) -> None:
    error = server.generate({"text_input": "Hi"}, entry).json()["error"]
    assert error.startswith("model_unavailable: ")
    assert f"$ERNIE_MODEL_ROOT/{entry}" in error


def test_a_killed_stub_takes_its_engine_along(server: TritonServer) -> None:
    (engine,) = server.descendants("ernie_backend")
    stub = engine.parent()
    assert stub is not None
    assert "triton_python_backend_stub" in stub.name() + " ".join(stub.cmdline())
    os.kill(stub.pid, signal.SIGKILL)
    eventually(lambda: not engine.is_running())
