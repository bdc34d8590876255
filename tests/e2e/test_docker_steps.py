"""The RUN, HEALTHCHECK and CMD lines of the images in a scratch environment: wheels, packages, and the service.

What only a container has is not run: apt-get, the user without rights, and everything of Dockerfile.xpu, whose
packages are on no index that the build machine reaches.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.dockerfile import Instruction, read_dockerfile
from support.free_ports import free_port
from support.paths import ROOT

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]
ABSENT = ("ernie_backend", "ernie_kernels", "paddle", "sentencepiece", "jinja2", "PIL")
READY_S = 300


def built(kind: str, directory: Path) -> tuple[list[Instruction], Mapping[str, str]]:
    """Run an image's pip lines in an environment of its own; return its instructions and that environment."""
    instructions = read_dockerfile(ROOT / "docker" / f"Dockerfile.{kind}")
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    environment = {"PATH": f"{directory / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(directory)}
    pip = [each.rest for each in instructions if each.name == "RUN" and each.rest.startswith("pip ")]
    assert len(pip) == 2
    for step in pip:
        command = re.sub(r"/wheels\b", str(directory / "wheels"), step)
        subprocess.run(command, shell=True, check=True, cwd=ROOT, env=environment, timeout=1800)
    return instructions, environment


def test_the_steps_of_the_frontends_image(tmp_path: Path) -> None:
    """No compiler, no model code."""
    _, environment = built("frontend", tmp_path)
    run = ["ernie-triton-frontend", "--help"]
    done = subprocess.run(run, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "--triton-url" in done.stdout
    code = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    python = tmp_path / "venv" / "bin" / "python"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.strip() == "[]"


def test_the_steps_of_the_image_for_cpus(tmp_path: Path) -> None:
    """As built, it serves the embedded model offline, is healthy, and ends on the signal that it names."""
    instructions, environment = built("cpu", tmp_path)
    lines = {each.name: each.rest for each in instructions}
    port = str(free_port())
    command = [*json.loads(lines["ENTRYPOINT"]), *json.loads(lines["CMD"]), "--port", port]
    command = [
        word.replace("/opt/ernie-triton/model_repository", str(ROOT / "model_repository")) for word in command
    ]
    health = json.loads(lines["HEALTHCHECK"].partition("CMD ")[2])
    health = [word.replace(":8000/", f":{port}/") for word in health]
    offline = {**environment, "HF_HUB_OFFLINE": "1", "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    service = subprocess.Popen(command, cwd=tmp_path, env=offline)
    try:
        limit = time.monotonic() + READY_S
        while subprocess.run(health, env=environment, capture_output=True, check=False).returncode:
            assert service.poll() is None
            assert time.monotonic() < limit
            time.sleep(1)
        (model,) = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models"))["data"]
        body = {"model": model["id"], "prompt": "1+1", "max_tokens": 4}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        answer = json.load(urllib.request.urlopen(request))
        assert answer["usage"]["completion_tokens"] > 0
        service.send_signal(getattr(signal, lines["STOPSIGNAL"]))
        assert service.wait(60) == 0
    finally:
        service.kill()
        service.wait()


def test_the_extra_for_cards_resolves_without_any(tmp_path: Path) -> None:
    """On a machine for CPUs; it brings tritonserver, and no Paddle."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    options = ["--dry-run", "--quiet", "--report", "-", "./backend/stub", "./openai_frontend", ".[xpu]"]
    install = [python, "-m", "pip", "install", *options]
    done = subprocess.run(install, check=True, capture_output=True, text=True, cwd=ROOT, timeout=1200)
    names = {each["metadata"]["name"].lower() for each in json.loads(done.stdout)["install"]}
    assert {"ernie-triton", "nvidia-pytriton", "av"} <= names
    assert not [name for name in names if "paddle" in name]
