"""The JDK's own HTTP client, as it comes: it offers h2c with every first request."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fakes.triton_grpc import FakeTriton

pytest_plugins = ("support.frontend_server",)

CLIENT = Path(__file__).with_name("JdkClient.java")
PATHS = ("/v1/chat/completions", "/v1/completions")


@pytest.mark.full
def test_the_jdk_client(frontend: str, triton: FakeTriton) -> None:
    java = shutil.which("java")
    assert java is not None, "this test needs a JDK, whose java compiles, too: Debian's default-jdk-headless"
    run = subprocess.run([java, CLIENT, frontend], capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, f"{run.stderr}\n(a JRE cannot run a source: Debian's default-jdk-headless can)"
    lines = run.stdout.splitlines()
    assert [" ".join(line.split()[:4]) for line in lines] == [
        *(f"{kind} {path} HTTP_1_1 200" for path in PATHS for kind in ("whole", "chunked", "stream")),
        "models /v1/models HTTP_1_1 200",
    ]
    for line in lines[:-1]:
        assert ("Beijing." in line) or line.endswith("data: [DONE]")
    assert [inference.inputs.get("stream", False) for inference in triton.inferences] == [
        False,
        False,
        True,
    ] * 2
