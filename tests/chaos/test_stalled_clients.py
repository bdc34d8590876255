"""Hundreds of clients that stall, against the real frontend process: the others notice nothing.

The frontend has no Triton: its answers are errors of its own, which pass through all that stalled clients hold.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support import http
from support.http import connected

START_S = 100.0
WAIT_S = 300.0
QUICK_S = 10.0
MAX_CONCURRENCY = 8
NUM_DESCRIPTORS = 1024
_URL = re.compile(r"serving (http://127\.0\.0\.1:\d+)/v1")
BODY_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
STALLS = {"idle": b"", "header": b"POST /v1/completions HTTP/1.1\r\nHost: ", "body": BODY_HEAD}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "frontend.log"


@pytest.fixture
def frontend_process(log: Path) -> Iterator[psutil.Process]:
    """A frontend that may open as many files as most shells allow."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (NUM_DESCRIPTORS, NUM_DESCRIPTORS))

    command = [sys.executable, "-m", "ernie_frontend", "--host=127.0.0.1", "--port=0"]
    command += ["--triton-url=127.0.0.1:9", f"--max-concurrency={MAX_CONCURRENCY}"]
    with log.open("wb") as output:
        process = psutil.Popen(command, stdout=output, stderr=output, preexec_fn=lower)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def url_in(log: Path) -> str:
    until = time.monotonic() + START_S
    while (found := _URL.search(log.read_text())) is None:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    url = found[1]
    while time.monotonic() < until:
        with contextlib.suppress(httpx.ConnectError):
            ask(url)
            break
    return url


def ask(url: str) -> None:
    """Send a whole request, which no stalled client may hold up."""
    begin = time.monotonic()
    answer = http.post(f"{url}/v1/completions", content=b"{}")
    assert answer.status_code == 503, answer.text  # there is no Triton; a taken slot would be a 429
    assert time.monotonic() - begin < QUICK_S


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "count"), [("idle", 1100), ("header", 1100), ("body", 300)])
def test_stalled_clients(frontend_process: psutil.Process, log: Path, kind: str, count: int) -> None:
    url = url_in(log)
    before = frontend_process.num_fds()
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(connected(url)) for _ in range(count)]
        for connection in stalled:
            with contextlib.suppress(OSError):  # some have given way
                connection.sendall(STALLS[kind])
        for _ in range(20):
            ask(url)
        until = time.monotonic() + WAIT_S
        while frontend_process.num_fds() > before + 8:  # their deadlines pass
            assert time.monotonic() < until, frontend_process.num_fds()
            time.sleep(0.2)
        ask(url)
    text = log.read_text()
    assert ("connections are open" in text) == (count > NUM_DESCRIPTORS)
    assert "Traceback" not in text
