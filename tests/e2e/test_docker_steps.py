"""The RUN lines of the frontend's image in a scratch environment: no compiler, no model code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.dockerfile import read_dockerfile
from support.paths import ROOT

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
ABSENT = ("ernie_backend", "ernie_kernels", "paddle", "sentencepiece", "jinja2", "PIL")


def test_the_steps_of_the_frontends_image(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    steps = [
        each.rest for each in read_dockerfile(ROOT / "docker" / "Dockerfile.frontend") if each.name == "RUN"
    ]
    pip = [step for step in steps if step.startswith("pip ")]
    assert len(pip) == 2
    environment = {"PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    for step in pip:
        command = re.sub(r"/wheels\b", str(tmp_path / "wheels"), step)
        subprocess.run(command, shell=True, check=True, cwd=ROOT, env=environment, timeout=600)
    run = ["ernie-triton-frontend", "--help"]
    done = subprocess.run(run, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "--triton-url" in done.stdout
    code = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    python = tmp_path / "venv" / "bin" / "python"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.strip() == "[]"
