"""Every command of the README runs, in the README's order, on free ports in place of the usual ones."""

from __future__ import annotations

import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.free_ports import free_ports
from support.paths import ROOT

START_DEADLINE_S = 120
COMMAND_DEADLINE_S = 120
TESTED_ELSEWHERE = {
    "make demo": "test_demo.py",
    "make test": "these tests",
}


def blocks(document: str) -> list[tuple[str, str]]:
    """Return the (language, text) of each fenced block that holds commands or a program."""
    text = (ROOT / document).read_text()
    return re.findall(r"^```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


class Ports:
    """The usual ports, each replaced by a free one."""

    def __init__(self) -> None:
        usual = (8188, 8000, 8001, 8002)
        self._free = dict(zip(usual, free_ports(len(usual)), strict=True))

    def __getitem__(self, usual: int) -> int:
        return self._free[usual]

    def replaced_in(self, text: str) -> str:
        for usual, free in self._free.items():
            text = re.sub(rf"\b{usual}\b", str(free), text)
        return text


@dataclass
class Section:
    """A command that starts a server, and the commands that talk to it."""

    server: str
    ready_url: str
    clients: list[tuple[str, str]] = field(default_factory=list)


def ready_url(command: str, ports: Ports) -> str | None:
    """Return where a server tells that it is ready; None if the command starts no server."""
    if command.startswith(".venv/bin/ernie-triton serve"):
        return f"http://127.0.0.1:{ports[8188]}/health"
    if command.startswith(".venv/bin/tritonserver"):
        return f"http://127.0.0.1:{ports[8000]}/v2/health/ready"
    return None


@contextmanager
def serving(command: str, url: str, log: Path) -> Iterator[None]:
    with log.open("w") as output:
        server = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=ROOT, stdout=output, stderr=output)
        try:
            wait_until_ready(server, url, log)
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(START_DEADLINE_S)


def wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} is not ready\n{log.read_text()[-4000:]}")


def run(language: str, text: str) -> str:
    interpreter = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [".venv/bin/python", "-c"]}[language]
    done = subprocess.run(
        [*interpreter, text], cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert "error" not in done.stdout[:200].lower(), done.stdout
    return done.stdout


def sections(document: str, ports: Ports) -> list[Section]:
    found: list[Section] = []
    for language, block in blocks(document):
        command = block.strip()
        if command in TESTED_ELSEWHERE:
            continue
        url = ready_url(command, ports)
        if url is None:
            assert found, f"a command before any server: {command}"
            found[-1].clients.append((language, ports.replaced_in(command)))
            continue
        if "tritonserver" in command:
            command += f" --http-port={ports[8000]} --grpc-port={ports[8001]} --metrics-port={ports[8002]}"
        found.append(Section(ports.replaced_in(command), url))
    return found


@pytest.mark.timeout(900)
def test_every_command_runs(tmp_path: Path) -> None:
    found = sections("README.md", Ports())
    assert len(found) >= 2
    for number, section in enumerate(found):
        with serving(section.server, section.ready_url, tmp_path / f"server{number}.log"):
            for language, text in section.clients:
                assert run(language, text).strip()


def test_both_readmes_have_the_same_commands() -> None:
    assert blocks("README.md") == blocks("README.zh.md")
