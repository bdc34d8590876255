"""``make bench``: the engine's table, llama.cpp's beside it, or the load of a running server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

DEADLINE_S = 300.0
LLAMA = """#!/bin/sh
echo '{"n_prompt": 512, "avg_ts": 160.0, "speed_tg": 40.0}'
"""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make; what ``make setup`` installed is taken as it is."""
    command = ["make", "--assume-old=.venv/.setup-done", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "engine_speed.py"),
        (["LLAMA=/a b"], 'engine_speed.py --llama "/a b"'),
        (["URL=http://h:1"], 'load.py --url "http://h:1"'),
        (["PAGES=8"], 'pages.py --pages "8"'),
        (["VISION=1"], "vision_tower.py"),
        (["VISION=/p/bin/python"], 'vision_tower.py --peer "/p/bin/python"'),
    ],
)
def test_what_it_runs(arguments: list[str], command: str) -> None:
    shown = make("--dry-run", "bench", *arguments).stdout.splitlines()
    assert [line.split("benchmarks/")[1].strip() for line in shown if "benchmarks/" in line] == [command]


def test_a_directory_without_llama_cpp_says_how_to_fill_it(tmp_path: Path) -> None:
    result = make("bench", f"LLAMA={tmp_path}")
    assert result.returncode != 0
    assert f"benchmarks/peers.sh {tmp_path}" in result.stderr


@pytest.mark.full
@pytest.mark.timeout(3 * DEADLINE_S)
def test_paddleocr_vl_at_its_full_size_reads_a_page_over_http() -> None:
    command = [sys.executable, "benchmarks/pages.py", "--pages", "1", "--max-tokens", "8"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=2.5 * DEADLINE_S, check=False
    )
    assert re.search(r"^1 pages in .* prompt tokens and 8 of the answer each", done.stdout, re.M), done.stderr


@pytest.mark.full
@pytest.mark.timeout(DEADLINE_S + 60)
def test_the_table_has_the_cases_of_the_document_and_both_programs(tmp_path: Path) -> None:
    programs = tmp_path / "build" / "bin"
    programs.mkdir(parents=True)
    for name in ("llama-bench", "llama-batched-bench"):
        (programs / name).write_text(LLAMA)
        (programs / name).chmod(0o755)
    (tmp_path / "dense-q8_0.gguf").touch()
    result = make("bench", f"LLAMA={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = re.findall(
        r"^(\w+ \d+) +([\d.]+) tok/s .*llama\.cpp +([\d.]+) .*ratio ([\d.]+)", result.stdout, re.M
    )
    assert [(case, theirs) for case, _, theirs, _ in rows] == [
        ("decode 1", "40.0"),
        ("decode 16", "40.0"),
        ("prefill 512", "160.0"),
    ]
    for _, ours, theirs, ratio in rows:
        assert float(ratio) == pytest.approx(float(ours) / float(theirs), abs=0.02)
