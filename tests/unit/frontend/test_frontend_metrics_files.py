"""The files in which the workers of one frontend count: room for them, and whose they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ernie_frontend.metrics import reserve_files, take_files

# A worker that answers one request and dies.
WORKER = """
import os, signal, sys
from pathlib import Path
from ernie_frontend.metrics import Metrics, take_files
from ernie_wire.status import Health
take_files(Path(sys.argv[1]))
metrics = Metrics()
metrics.count_http("GET", "/v1/models", 200, 0.1)
metrics.to_text(Health(state="ready"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_their_room_is_taken_before_they_are_written_to(tmp_path: Path) -> None:
    reserve_files(tmp_path, 2)
    assert names(tmp_path) == {
        f"{kind}_free{number}.db" for kind in ("counter", "histogram") for number in (0, 1)
    }
    for path in tmp_path.iterdir():
        assert path.stat().st_blocks * 512 >= path.stat().st_size >= 128 << 10


def test_only_files_that_no_living_process_has_are_taken(tmp_path: Path) -> None:
    mine = {f"counter_{os.getpid()}.db", f"histogram_{os.getpid()}.db"}
    living = {f"counter_{os.getppid()}.db", f"histogram_{os.getppid()}.db"}
    for name in living:
        (tmp_path / name).touch()
    take_files(tmp_path)
    assert names(tmp_path) == living
    reserve_files(tmp_path, 1)
    take_files(tmp_path)
    assert names(tmp_path) == living | mine


def test_a_worker_goes_on_with_the_files_of_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    reserve_files(tmp_path, 1)
    for _ in range(3):
        subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], check=False)
    assert len(names(tmp_path)) == 2
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    counted = 'http_requests_total{method="GET",path="/v1/models",status_code="200"} 3.0'
    assert counted in generate_latest(registry).decode()
