"""The frontend alone: installed where there is no compiler and no Paddle, before a Triton elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.frontend_process import frontend_process
from support.paths import ROOT
from support.triton_server import EMBEDDED, TritonServer, add_entry

NOT_THERE = ("ernie_backend", "ernie_kernels", "ernie_cli", "paddle", "sentencepiece", "jinja2")
FORBIDDEN = ("gcc", "g++", "cc", "c++", "clang", "cmake", "ninja")


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_the_frontend_alone(start_tritonserver: Callable[[Path], TritonServer], tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    bare["PATH"] = str(tmp_path / "venv" / "bin")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    assert not [tool for tool in FORBIDDEN if (Path(bare["PATH"]) / tool).exists()]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", ROOT / "backend" / "stub", ROOT / "openai_frontend"],
        env=bare,
        check=True,
    )
    probe = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, sys.argv[1:])))"
    assert subprocess.run([python, "-c", probe, *NOT_THERE], cwd=tmp_path, env=bare).returncode == 0

    repository = tmp_path / "repository"
    add_entry(repository, "ernie-tiny", model=str(EMBEDDED / "weights"))
    server = start_tritonserver(repository)
    command = [str(tmp_path / "venv" / "bin" / "ernie-triton-frontend")]
    with frontend_process(command, server.grpc_port, tmp_path / "frontend.log", bare) as client:
        messages = [{"role": "user", "content": "Where is the capital of China?"}]
        body = {"model": "null", "messages": messages, "max_tokens": 8, "temperature": 0}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert answer.json()["choices"][0]["message"]["content"]
