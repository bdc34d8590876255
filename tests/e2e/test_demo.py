"""``ernie-triton demo --once``, which is ``make demo ONCE=1``: an answer, a curl line, exit status 0."""

from __future__ import annotations

import socket
import subprocess
import sys

from ernie_cli.demo import QUESTION

DEADLINE_S = 180.0


def demo(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ernie_cli", "demo", "--once", "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_it_asks_prints_the_answer_and_ends_well() -> None:
    result = demo(0)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    question = next(index for index, line in enumerate(lines) if QUESTION in line)
    noise = next(index for index, line in enumerate(lines) if "random weights" in line)
    assert "".join(lines[question + 1 : noise]).strip()
    curl = next(line for line in lines if line.lstrip().startswith("curl "))
    assert "/v1/chat/completions" in curl


def test_a_taken_port_says_how_to_choose_another() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = demo(listener.getsockname()[1])
    assert result.returncode == 1
    assert "choose another --port" in result.stderr
