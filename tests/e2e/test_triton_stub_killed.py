"""A killed stub, which Triton does not restart, leaves no engine behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from e2e.triton_server import ROOT, TritonServer, eventually


def test_a_killed_stub_takes_its_engine_along(start_tritonserver: Callable[[Path], TritonServer]) -> None:
    server = start_tritonserver(ROOT / "model_repository")
    (stub,) = server.descendants("triton_python_backend_stub")
    (engine,) = server.descendants("ernie_backend")
    os.kill(stub.pid, signal.SIGKILL)
    eventually(lambda: not engine.is_running())
