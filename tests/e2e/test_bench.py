"""``make bench``: the comparison with other engines, or the load of a running server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import load
from comparison.processes import Family
from ernie_wire.processes import ProcessStat
from support.paths import ROOT

DEADLINE_S = 300.0
LLAMA = """#!/bin/sh
echo '{"n_prompt": 512, "avg_ts": 160.0, "speed_tg": 40.0}'
"""
SERVER = """#!/bin/sh
sleep 300 & echo $! > "$0.pid"
wait
"""
STARTS_ANOTHER = """
import subprocess
print(subprocess.Popen(["sleep", "300"], start_new_session=True).pid, flush=True)
input()
"""
STARTS_ANOTHER_AND_FAILS = "sleep 300 & echo $!; exit 1"
EVENT = b'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}}\n\n'
WORKLOAD = load.Workload("", "m", 2, 8, 1, prompt_tokens=4, vocab=64, max_tokens=1, prompt=None, seed=0)
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


def until(holds: Callable[[], bool]) -> None:
    """Wait; the test's own timeout is the limit."""
    while not holds():
        time.sleep(0.01)


def is_alive(process_id: int) -> bool:
    try:
        return ProcessStat.read(process_id).state != "Z"
    except OSError:
        return False


def test_a_contender_is_stopped_with_all_its_processes_and_ended_while_it_is() -> None:
    command = [sys.executable, "-c", STARTS_ANOTHER]
    family = Family(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert family.program.stdout is not None
    members = [family.program.pid, int(family.program.stdout.readline())]
    family.pause()
    until(lambda: all(ProcessStat.read(member).state == "T" for member in members))
    family.resume()
    until(lambda: all(ProcessStat.read(member).state != "T" for member in members))
    family.pause()
    family.end()
    until(lambda: not any(map(is_alive, members)))
    family.program.communicate()


def test_what_a_contender_left_when_it_failed_is_ended() -> None:
    family = Family(["sh", "-c", STARTS_ANOTHER_AND_FAILS], stdout=subprocess.PIPE)
    assert family.program.stdout is not None
    left = int(family.program.stdout.readline())
    until(lambda: family.program.poll() is not None)
    assert is_alive(left)
    family.end()
    until(lambda: not is_alive(left))
    family.program.communicate()


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_comparison_leaves_no_server(tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "peers" / "build" / "bin" / "llama-server"
    program.parent.mkdir(parents=True)
    program.write_text(SERVER)
    program.chmod(0o755)
    started = program.with_suffix(".pid")
    command = [sys.executable, "-m", "comparison", "--peers", str(tmp_path / "peers"), "--only", "http"]
    with subprocess.Popen(
        [*command, "--results", str(tmp_path / "results")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "benchmarks"},
    ) as comparison:
        until(lambda: started.exists() and bool(started.read_text()))
        comparison.send_signal(number)
    assert not is_alive(int(started.read_text()))


async def test_a_server_that_closes_connections_behind_its_streams_loses_no_request() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.I)
        assert length is not None
        await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT))
        await writer.drain()
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        report = await load.run(replace(WORKLOAD, url=f"http://{host}:{port}"))
    assert (report["requests"], report["errors"]) == (8, [])
