"""``make bench``: the comparison with other engines, or the load of a running server."""

from __future__ import annotations

import json
import os
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
COMPARISON = "PYTHONPATH=benchmarks .venv/bin/python -m comparison"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make; what ``make setup`` installed is taken as it is."""
    command = ["make", "--assume-old=.venv/.setup-done", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], f'benchmarks/peers/install.sh "build/peers" && {COMPARISON} --peers "build/peers"'),
        (
            ["PEERS=/a b", "ONLY=decode http", "ROUNDS=5"],
            f'benchmarks/peers/install.sh "/a b" && {COMPARISON} --peers "/a b" --only decode http --rounds 5',
        ),
        (["WRITE=1"], f"{COMPARISON} --write"),
        (["URL=http://h:1"], '.venv/bin/python benchmarks/load.py --url "http://h:1"'),
        (["PAGES=8"], '.venv/bin/python benchmarks/pages.py --pages "8"'),
        (["VISION=1"], ".venv/bin/python benchmarks/vision_tower.py"),
        (["VISION=/p/bin/python"], '.venv/bin/python benchmarks/vision_tower.py --peer "/p/bin/python"'),
    ],
)
def test_what_it_runs(arguments: list[str], command: str) -> None:
    shown = make("--dry-run", "bench", *arguments).stdout.replace("\\\n", "").splitlines()
    assert " ".join(command.split()) in [" ".join(line.split()) for line in shown]


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
def test_both_engines_take_turns_and_a_missing_one_is_named(tmp_path: Path) -> None:
    programs = tmp_path / "peers" / "build" / "bin"
    programs.mkdir(parents=True)
    for name in ("llama-bench", "llama-batched-bench"):
        (programs / name).write_text(LLAMA)
        (programs / name).chmod(0o755)
    (tmp_path / "peers" / "dense-q8_0.gguf").touch()
    command = [sys.executable, "-m", "comparison", "--peers", str(tmp_path / "peers"), "--rounds", "2"]
    done = subprocess.run(
        [*command, "--only", "decode 1", "--results", str(tmp_path / "results")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "benchmarks"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "results" / "rows" / "decode-1.json").read_text())
    assert kept["samples"]["llama.cpp Q8_0"] == [40.0, 40.0]
    assert [value > 0 for value in kept["samples"]["ernie-triton wint8"]] == [True, True]
    assert [value > 0 for value in kept["bandwidth"]] == [True, True]
    assert set(kept["not_run"]) == {"vLLM bf16", "OpenVINO int8"}
