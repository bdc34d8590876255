"""A frontend process for tests, in front of a Triton that they started."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

_URL = re.compile(r"http://127\.0\.0\.1:\d+")


@contextlib.contextmanager
def frontend_process(
    command: Sequence[str], grpc_port: int, log: Path, environment: dict[str, str] | None = None
) -> Iterator[httpx.Client]:
    """Run a frontend by ``command`` on a free port; gives a client of it."""
    arguments = ["--host=127.0.0.1", "--port=0", f"--triton-url=127.0.0.1:{grpc_port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            stderr=subprocess.PIPE,
            stdout=output,
            text=True,
            env=os.environ if environment is None else environment,
        )
    try:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        url = _URL.search(first_line)
        assert url is not None, first_line + process.stderr.read()
        with httpx.Client(base_url=url[0], trust_env=False, timeout=100) as client:
            yield client
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
