"""``make demo``: answers that stand out on a quiet screen, a curl line, exit status 0."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_cli.demo import QUESTION
from support.free_ports import free_port
from support.paths import DENSE, ROOT

DEADLINE_S = 180.0
MOST_LINES = 20  # all of the screen, the answers included


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def make_demo(*variables: str) -> subprocess.CompletedProcess[str]:
    """Run the target through make; what ``make setup`` installed is taken as it is."""
    variables = (f"PORT={free_port()}", *variables)
    return run("make", "--assume-old=.venv/.setup-done", "demo", "ONCE=1", *variables)


def answer_of(result: subprocess.CompletedProcess[str]) -> str:
    """Return what stands after the last question."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.rpartition("Answer: ")[2].split("\nAsk it yourself:")[0]


def test_the_embedded_model_answers_on_a_quiet_screen() -> None:
    result = make_demo()
    assert answer_of(result).strip() == "42"
    lines = [line for line in result.stdout.splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
    chat = [line for line in lines if line.startswith(("Question: ", "Answer: "))]
    assert chat[:4] == [
        f"Question: {QUESTION}",
        "Answer: The capital of China is Beijing.",
        "Question: 法国的首都是哪里？",
        "Answer: 法国的首都是巴黎。",
    ]
    assert result.stderr == ""
    assert len(lines) <= MOST_LINES
    curl = next(line for line in lines if line.lstrip().startswith("curl "))
    assert "/v1/chat/completions" in curl
    said = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8188", result.stdout)
    for readme in ("README.md", "README.zh.md"):
        (transcript,) = re.findall(
            r"^```text\n(Through the openai client .*?)^```", (ROOT / readme).read_text("utf-8"), re.M | re.S
        )
        assert transcript in said, readme


@pytest.mark.full
@pytest.mark.timeout(DEADLINE_S + 60)
def test_make_takes_another_model() -> None:
    result = make_demo(f"MODEL={DENSE}")
    assert answer_of(result).strip()
    assert result.stdout.count("Question: ") == 1


def test_a_model_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    result = make_demo(f"MODEL={tmp_path}")
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
    assert len(lines) == 1
    assert "config.json" in lines[0]


def test_a_taken_port_says_how_to_choose_another() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = run(sys.executable, "-m", "ernie_cli", "demo", "--once", "--port", str(port))
    assert result.returncode == 1
    assert "--port" in result.stderr
