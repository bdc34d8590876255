"""A terminal or a pipe that nobody reads: the log loses lines, the service loses nothing."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx
import pytest

from support.paths import DENSE

START_DEADLINE_S = 120
STOP_DEADLINE_S = 100
PIPE_BYTES = 4096
NUM_REQUESTS = 500
LONG_ID = "x" * 120
"""Each request's line has its id: together they are more than all pipes on the way hold."""

LISTEN = ("--host", "127.0.0.1", "--port", "0")
SERVE = ("ernie_cli", "serve", "--model", str(DENSE), "--dtype", "float32", *LISTEN)
FRONTEND = ("ernie_frontend", "--triton-url", "127.0.0.1:9", *LISTEN)
_URLS = {SERVE: r"service at (http://[\d.:]+)/v1/chat", FRONTEND: r"serving (http://[\d.:]+)/v1"}


@contextmanager
def unread(module: str, *arguments: str, url: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a command whose output is read until the line with its address, and then no more."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process, _found(process.stdout, url)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _found(output: IO[bytes] | None, pattern: str) -> str:
    assert output is not None
    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    for line in output:
        if match := re.search(pattern, line.decode()):
            return match[1]
    raise AssertionError("it ended before it was ready")


@pytest.mark.full
@pytest.mark.parametrize("command", [SERVE, FRONTEND], ids=["serve", "frontend alone"])
@pytest.mark.timeout(START_DEADLINE_S + STOP_DEADLINE_S)
def test_a_reader_that_stops_freezes_neither_requests_nor_signals(command: tuple[str, ...]) -> None:
    with unread(*command, url=_URLS[command]) as (process, url):
        with httpx.Client(base_url=url, trust_env=False, timeout=STOP_DEADLINE_S) as client:
            for number in range(NUM_REQUESTS):
                response = client.post(
                    "/v1/completions", content=b"{", headers={"X-Request-Id": f"{LONG_ID}{number}"}
                )
                assert response.status_code == 400
        process.terminate()
        assert process.wait(STOP_DEADLINE_S) == 0
