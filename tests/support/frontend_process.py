"""A frontend process for tests, in front of a Triton that they started."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

_URL = re.compile(r"http://127\.0\.0\.1:\d+")


_START_S = 100


@contextlib.contextmanager
def frontend_process(
    command: Sequence[str], grpc_port: int, log: Path, environment: dict[str, str] | None = None
) -> Iterator[httpx.Client]:
    """Run a frontend by ``command`` on a free port; gives a client of it.

    It logs into a file: a pipe that nobody reads is full after a thousand requests, and blocks whoever writes.
    """
    arguments = ["--host=127.0.0.1", "--port=0", f"--triton-url=127.0.0.1:{grpc_port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=output,
            stderr=output,
            env=os.environ if environment is None else environment,
        )
    try:
        with httpx.Client(base_url=_url(process, log), trust_env=False, timeout=100) as client:
            yield client
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the process writes into its log."""
    until = time.monotonic() + _START_S
    while (url := _URL.search(text := log.read_text())) is None:
        assert process.poll() is None, text
        assert time.monotonic() < until, text
        time.sleep(0.05)
    return url[0]
