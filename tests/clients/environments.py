"""Client libraries of others, each in an environment of its own below build/, made when a test first needs it.

Making one needs a package index: PyPI for Python's, npm's for those of Node.js.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

ENVIRONMENTS = ROOT / "build" / "clients"
PYTHON_LIBRARIES = {
    "LangChain": ("langchain-openai==1.7.4",),
    "OpenAI Agents SDK": ("openai-agents==0.24.0",),
    "LiteLLM": ("litellm==1.110.2",),
    "Instructor": ("instructor==1.17.0",),
    "Pydantic AI": ("pydantic-ai-slim[openai]==2.68.0",),
    "lm-eval": ("lm-eval[api]==0.4.13",),
    "AIPerf": ("aiperf==0.13.0",),
    "PaddleX": ("paddlex[genai-client]==3.7.2",),
}
NODE_LIBRARIES = {
    "openai-node": ("openai@7.59.0", "zod@4.6.7"),
    "Vercel AI SDK": ("ai@6.0.325", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"),
}
"""Tested versions, by the name in docs/clients.md."""


def environment(library: str) -> Path:
    """Return the directory of a library's environment; makes it unless it is there in these versions."""
    directory = ENVIRONMENTS / library.lower().replace(" ", "-")
    stamp = directory / "contents.txt"
    contents = (
        f"Python {platform.python_version()}: {PYTHON_LIBRARIES.get(library, NODE_LIBRARIES.get(library))}"
    )
    if not stamp.exists() or stamp.read_text() != contents:
        shutil.rmtree(directory, ignore_errors=True)
        for command in _installation(library, directory):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        stamp.write_text(contents)
    return directory


def _installation(library: str, directory: Path) -> list[list[str]]:
    """Return the commands that fill an empty environment."""
    if library in NODE_LIBRARIES:
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"]
        return [["npm", "install", *quiet, "--prefix", str(directory), *NODE_LIBRARIES[library]]]
    pip = [str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    return [
        [sys.executable, "-m", "venv", str(directory)],
        [*pip, "install", *PYTHON_LIBRARIES[library]],
    ]
