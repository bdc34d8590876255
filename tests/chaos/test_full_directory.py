"""A temporary directory that is full while a service with several workers runs. Only root can make one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from support import http
from support.paths import DENSE
from support.serving import Serving
from support.waiting import eventually

FLAGS = ("--model", str(DENSE), "--port", "0", "--host", "127.0.0.1", "--dtype", "float32", "--workers", "2")
DEADLINE_S = 100.0
NUM_KILLED = 3


def fill(directory: Path) -> None:
    free = os.statvfs(directory)
    (directory / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize))
    with pytest.raises(OSError, match="No space left on device"):
        (directory / "more").write_bytes(bytes(1))
    (directory / "more").unlink()


def workers(serving: Serving) -> list[psutil.Process]:
    return [child for child in serving.descendants("spawn_main") if child.is_running()]


def kill_a_worker(serving: Serving) -> None:
    before = workers(serving)
    before[0].kill()
    until = time.monotonic() + DEADLINE_S
    while len(set(workers(serving)) - set(before)) < 1:
        assert time.monotonic() < until, serving.output
        time.sleep(0.1)


def is_counted(url: str, num_requests: int) -> bool:
    """Whether all workers have counted what they answered, which they do when an answer is sent."""
    counted = http.get(f"{url}/metrics", timeout=DEADLINE_S).text
    return f"fastdeploy:requests_number_total {num_requests}.0" in counted


if os.geteuid() == 0:

    @pytest.mark.full
    @pytest.mark.timeout(3 * DEADLINE_S)
    def test_workers_live_and_are_replaced(tmp_path: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)], check=True)
        serving = Serving("serve", *FLAGS, environment={"TMPDIR": str(tmp_path)})
        try:
            url = serving.wait_until_ready()
            fill(tmp_path)
            for _ in range(NUM_KILLED):
                kill_a_worker(serving)
                for _ in range(8):  # each by a connection of its own: any worker may answer
                    body = {"prompt": [5, 6, 7], "max_tokens": 2}
                    asked = http.post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
                    assert asked.status_code == 200
            eventually(lambda: is_counted(url, NUM_KILLED * 8))
            serving.process.terminate()
            assert serving.wait() == 0
            ends = [line for line in serving.output if "another one is started" in line]
            assert len(ends) == NUM_KILLED
            assert all("it was killed by SIGKILL" in line for line in ends)
            assert {path.name for path in tmp_path.iterdir()} == {"filler"}
        finally:
            serving.close()
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run(["umount", "-l", str(tmp_path)], check=True)
