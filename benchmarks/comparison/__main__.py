"""``make bench``: our engine and server beside llama.cpp, vLLM and OpenVINO.

    PYTHONPATH=benchmarks .venv/bin/python -m comparison --peers W --only decode http
    PYTHONPATH=benchmarks .venv/bin/python -m comparison --write

The first form measures rows and keeps their samples in build/bench/rows, a file each: what was measured on an
earlier day stays until its row is run again. The second writes the tables and plots of docs/performance.md from
what is kept. benchmarks/peers/install.sh W installs the peers; one that is not there is named in the tables.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from comparison import contenders, machine, processes, rows, servers, sessions
from comparison.document import write_document
from comparison.limits import instruction
from ernie_backend.devices.host import usable_cores

ROOT = Path(__file__).resolve().parents[2]
LOOKUP_PROGRAM = ["prompt_lookup.py"]


def main() -> None:
    """Measure or write, as the command line says."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(_names()))
    elif arguments.write:
        write_document(arguments.results, ROOT / "docs")
    else:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        try:
            measure(arguments)
        finally:
            processes.end_all()


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _names() -> list[str]:
    engine = [row.name for row in (*rows.ENGINE_ROWS, *rows.ROWS_21B, *rows.SERVER_ROWS)]
    return [*engine, rows.START_ROW, rows.LOOKUP_ROW, rows.KERNELS_ROW]


def measure(arguments: argparse.Namespace) -> None:
    """Measure the chosen rows."""
    begin, threads, peers = time.monotonic(), arguments.threads, arguments.peers.resolve()
    results = sessions.Results(arguments.results)
    logs = results.directory / "logs"
    logs.mkdir(exist_ok=True)
    chosen = set(filter(lambda name: _is_chosen(name, arguments), _names()))
    probe = machine.Probe(results.directory)
    facts: dict[str, Any] = {}
    peaks = probe.peaks(threads)
    print("peaks, GOP/s: " + ", ".join(f"{name} {value:.0f}" for name, value in peaks.items()), flush=True)
    starters = contenders.starters(peers, threads, logs)
    if engine_rows := [row for row in rows.ENGINE_ROWS if row.name in chosen]:
        line = sessions.Line(starters, [name for row in engine_rows for name in row.contenders])
        facts |= {name: each.facts for name, each in line.running.items()}
        _print_instructions(facts)
        sessions.take_turns(line, engine_rows, arguments.rounds, results, probe, threads)
        line.close()
    if moe_rows := [row for row in rows.ROWS_21B if row.name in chosen]:
        facts |= sessions.one_by_one(starters, moe_rows, arguments.rounds, results, probe, threads)
    if server_rows := [row for row in rows.SERVER_ROWS if row.name in chosen]:
        names = [name for row in server_rows for name in row.contenders]
        served = sessions.Line(servers.starters(peers, threads, logs), names)
        sessions.take_turns(served, server_rows, arguments.rounds, results, probe, threads)
        facts |= {name: each.facts for name, each in served.running.items()}
        served.close()
    if rows.START_ROW in chosen:
        sessions.measure_start(peers, threads, arguments.rounds, results, logs)
    for name, program in ((rows.LOOKUP_ROW, LOOKUP_PROGRAM), (rows.KERNELS_ROW, ["kernels.py"])):
        if name in chosen:
            sessions.run_program(name, program, results)
    probe.close()
    _keep_machine(results.directory / "machine.json", facts, peaks, threads)
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes; the tables: make bench WRITE=1")


def _is_chosen(name: str, arguments: argparse.Namespace) -> bool:
    if arguments.only:
        return any(f"{name} ".startswith(f"{each} ") for each in arguments.only)
    return not name.startswith("21b")


def _print_instructions(facts: dict[str, Any]) -> None:
    for name, found in facts.items():
        if "instruction_set" in found:
            ran = f"{found['instruction_set']}, {found['activation_dtype']} activations: {instruction(found)}"
            print(f"{name}: {ran}", flush=True)


def _keep_machine(path: Path, facts: dict[str, Any], peaks: dict[str, float], threads: int) -> None:
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"contenders": {}}
    known["contenders"].update(facts)
    known.update(machine=machine.fingerprint(), peaks=peaks, threads=threads)
    path.write_text(json.dumps(known, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=Path, default=ROOT / "build" / "peers", help="the directory of install.sh"
    )
    parser.add_argument(
        "--only", nargs="+", help="rows whose names begin so; default: all but those of the 21B shape"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench", help="where samples are kept")
    parser.add_argument("--list", action="store_true", help="names of the rows, and nothing else")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md from what is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
