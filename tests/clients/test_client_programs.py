"""Programs of users of other libraries, run as they are, each in an environment with the tested version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clients.conftest import RefusingProxy
from clients.environments import environment
from support.paths import ROOT

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]  # an environment takes minutes to make
PROGRAMS = Path(__file__).parent / "programs"
USUAL_ADDRESS = "127.0.0.1:8188"
PROGRAM_DEADLINE_S = 240
CITY = "(Beijing|Paris)"
CAPITAL = f"(China|France) {CITY}"
TEXT = r"The capital of France is Paris\."
PYTHON_PROGRAMS = {
    "langchain_client.py": (
        "LangChain",
        [
            f"text: {TEXT}",
            f"stream: {TEXT}",
            rf"tool: get_weather It is sunny in {CITY}\.",
            rf"streamed tool: \('get_weather', 'It is sunny in {CITY}\.'\)",
            f"json_schema: {CAPITAL}",
            f"function_calling: {CAPITAL}",
            "context: True",
        ],
    ),
    "openai_agents_client.py": (
        "OpenAI Agents SDK",
        [f"text: {TEXT}", f"tool: get_(weather|time) {CITY}", "answer: .+", f"output_type: {CAPITAL}"],
    ),
    "litellm_client.py": (
        "LiteLLM",
        [
            f"text: {TEXT}",
            f"tool: get_weather {CITY}",
            f"response_format: {CAPITAL}",
            "context: ContextWindowExceededError",
        ],
    ),
    "instructor_client.py": (
        "Instructor",
        [f"TOOLS: {CAPITAL}", f"JSON_SCHEMA: {CAPITAL}"],
    ),
    "pydantic_ai_client.py": (
        "Pydantic AI",
        [f"text: {TEXT}", f"ToolOutput: {CAPITAL}", f"NativeOutput: {CAPITAL}"],
    ),
    "lm_eval.sh": ("lm-eval", [r"\|capitals\|.*\|acc +\|.*\| +1\|.*"]),
    "aiperf.sh": (
        "AIPerf",
        [r".*Request Error Rate \(%\) │ +0\.00 │.*", r".*Request Count \(requests\) │ +16\.00 │.*"],
    ),
    "paddlex_client.py": (
        "PaddleX",
        [
            "fastdeploy-server: 200 answers",
            "fastdeploy-server: spotted str",
            "vllm-server: 200 answers",
            "vllm-server: spotted str",
            "model: PaddleOCR-VL",
        ],
    ),
}
NODE_PROGRAMS = {
    "openai_node.mjs": (
        "openai-node",
        [f"stream: {TEXT}", rf"runTools: It is sunny in {CITY}\.", f"parse: {CAPITAL}"],
    ),
    "vercel_ai_sdk.mjs": (
        "Vercel AI SDK",
        [
            f"text: {TEXT}",
            f"stream: {TEXT}",
            rf"tool: getWeather It is sunny in {CITY}\.",
            f"object: {CAPITAL}",
        ],
    ),
}
RUNNERS = {".py": ["python"], ".sh": ["bash", "-euo", "pipefail"], ".mjs": ["node"]}
QUIET = {
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DO_NOT_TRACK": "1",
}
"""What keeps the libraries from sending anything to anyone else; in docs/clients.md."""


@pytest.mark.parametrize("program", PYTHON_PROGRAMS | (NODE_PROGRAMS if shutil.which("npm") else {}))
def test_program(program: str, request: pytest.FixtureRequest, tmp_path: Path, proxy: RefusingProxy) -> None:
    library, expected = (PYTHON_PROGRAMS | NODE_PROGRAMS)[program]
    url = request.getfixturevalue("ocr_url" if library == "PaddleX" else "server_url")
    printed = run(program, environment(library), url, tmp_path, proxy.url)
    assert proxy.requests == [], "something was sent elsewhere"
    lines = iter(printed.splitlines())
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no more {pattern!r} in\n{printed}"


def run(program: str, installed: Path, server_url: str, directory: Path, proxy_url: str) -> str:
    """Run a copy of a program that talks to our server, in a directory of its own; return what it prints."""
    for original in PROGRAMS.iterdir():
        address = server_url.removeprefix("http://")
        (directory / original.name).write_text(original.read_text().replace(USUAL_ADDRESS, address))
    (directory / "model_repository").symlink_to(ROOT / "model_repository")
    if (installed / "node_modules").exists():
        (directory / "node_modules").symlink_to(installed / "node_modules")
    done = subprocess.run(
        [*RUNNERS[Path(program).suffix], program],
        cwd=directory,
        env=variables(installed, directory, proxy_url),
        capture_output=True,
        text=True,
        timeout=PROGRAM_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def variables(installed: Path, home: Path, proxy_url: str) -> dict[str, str]:
    """Return all environment variables of a program: nothing of ours but the search path."""
    proxies = {name: proxy_url for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy",)}
    loopback = {"no_proxy": "127.0.0.1,localhost"}
    path = f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"
    both = {name.upper(): value for name, value in (proxies | loopback).items()}
    return {
        **QUIET,
        **proxies,
        **loopback,
        **both,
        "PATH": path,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
    }
