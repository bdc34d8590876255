"""Takes turns among contenders, row by row and round by round, and keeps every sample in a file per row.

A round of a row: bandwidth is probed, then each contender measures once. So all meet the noise of the same
seconds, and what a row could reach is known for these seconds. A file is written after every round: what is
measured stays if the run is interrupted, and a row that is run again replaces its file.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic

from comparison import machine, rows, servers
from comparison.contenders import BENCHMARKS, Contender, NotRunError, Sample_co
from comparison.limits import step_bytes
from comparison.rows import Row

Record = dict[str, Any]
"""What is kept of a row: when, load, bandwidth, the samples of each contender, and why one was not run."""


class Results:
    """The directory of records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "rows").mkdir(parents=True, exist_ok=True)

    def keep(self, name: str, record: Record) -> None:
        """Write a record."""
        path = self.directory / "rows" / f"{name.replace(' ', '-')}.json"
        path.write_text(json.dumps({"name": name, **record}, indent=1) + "\n")


class Line(Generic[Sample_co]):
    """The contenders of some rows, all started and stopped until they measure, and why the others are not."""

    def __init__(
        self, starters: Mapping[str, Callable[[], Contender[Sample_co]]], names: Iterable[str]
    ) -> None:
        self.running: dict[str, Contender[Sample_co]] = {}
        self.not_run: dict[str, str] = {}
        for name in dict.fromkeys(names):
            if name not in starters:
                self.not_run[name] = "nothing here starts it"
                continue
            _say(f"starting {name}")
            try:
                contender = self.running[name] = starters[name]()
            except NotRunError as error:
                self.drop(name, str(error))
            else:
                _pause(contender)

    def drop(self, name: str, reason: str) -> None:
        """Leave a contender out from here on."""
        _say(f"not run: {name}: {reason}")
        self.not_run[name] = reason
        if name in self.running:
            _end(self.running.pop(name))

    def measure(self, row: Row, name: str, *, warm_up: bool) -> Sample_co | None:
        """Return a sample; None: it was to warm up, or this contender is not run, or not any more."""
        contender = self.running.get(name)
        if contender is None or (warm_up and not contender.warms_up):
            return None
        for family in contender.families:
            family.resume()
        try:
            sample = contender.measure(row)
        except NotRunError as error:
            self.drop(name, str(error))
            return None
        _pause(contender)
        return None if warm_up else sample

    def close(self) -> None:
        """End all."""
        for each in self.running.values():
            _end(each)


def _pause(contender: Contender[Any]) -> None:
    for family in contender.families:
        family.pause()


def _end(contender: Contender[Any]) -> None:
    for family in contender.families:
        family.end()


def new_record() -> Record:
    """Return the record of a row that is about to be measured."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"when": now, "load": [], "bandwidth": [], "memory": [], "samples": {}, "not_run": {}}


def take_turns(
    line: Line[Any], chosen: Sequence[Row], rounds: int, results: Results, probe: machine.Probe, threads: int
) -> None:
    """Measure rows ``rounds`` times; before the first round, contenders that warm up run each row once."""
    records = {row.name: new_record() for row in chosen}
    for number in range(rounds + 1):
        for row in chosen:
            record, warm_up = records[row.name], number == 0
            if not warm_up:
                record["load"].append(machine.load())
                mebibytes = int(step_bytes(row.contenders[0], 1) / 2**20)
                record["bandwidth"].append(probe.read(mebibytes, threads))
                record["memory"].append(probe.read(machine.MEMORY_MIB, threads))
            for name in row.contenders:
                sample = line.measure(row, name, warm_up=warm_up)
                if sample is not None:
                    record["samples"].setdefault(name, []).append(sample)
            record["not_run"] = {name: line.not_run[name] for name in row.contenders if name in line.not_run}
            if not warm_up:
                results.keep(row.name, record)
                _say(f"round {number} of {rounds}: {summary(row.name, record)}")


def one_by_one(
    starters: Mapping[str, Callable[[], Contender[Any]]],
    chosen: Sequence[Row],
    rounds: int,
    results: Results,
    probe: machine.Probe,
    threads: int,
) -> dict[str, dict[str, Any]]:
    """Measure rows whose contenders do not fit in memory together: all rounds of one, then of the next."""
    records, facts = {row.name: new_record() for row in chosen}, {}
    for name in dict.fromkeys(name for row in chosen for name in row.contenders):
        line: Line[Any] = Line(starters, [name])
        if name in line.running:
            facts[name] = line.running[name].facts
        for number in range(rounds + 1):
            for row in chosen:
                record, warm_up = records[row.name], number == 0
                if name not in line.running or (warm_up and row is not chosen[0]):
                    continue
                if not warm_up and name == row.contenders[0]:
                    record["load"].append(machine.load())
                    record["bandwidth"].append(probe.read(machine.MEMORY_MIB, threads))
                    record["memory"].append(record["bandwidth"][-1])
                sample = line.measure(row, name, warm_up=warm_up)
                if sample is not None:
                    record["samples"].setdefault(name, []).append(sample)
        line.close()
        for row in chosen:
            records[row.name]["not_run"].update(line.not_run)
            results.keep(row.name, records[row.name])
            _say(summary(row.name, records[row.name]))
    return facts


def measure_start(peers: Path, threads: int, rounds: int, results: Results, logs: Path) -> None:
    """Start our server on an empty cache of weights and again on a full one, and see what is resident then."""
    record = new_record()
    cache = Path(tempfile.mkdtemp(prefix="weights-"))
    try:
        for _ in range(rounds):
            shutil.rmtree(cache, ignore_errors=True)
            record["load"].append(machine.load())
            for name in ("first start", "second start"):
                _say(f"starting our server: {name}")
                server = servers.Server(servers.our_command(peers, threads, str(cache)), logs / "start.log")
                record["samples"].setdefault(name, []).append(server.facts)
                server.family.end()
    except NotRunError as error:
        record["not_run"]["ernie-triton"] = str(error)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    results.keep(rows.START_ROW, record)
    _say(json.dumps(record["samples"]))


def run_program(name: str, arguments: Sequence[str], results: Results) -> None:
    """Keep what a benchmark of its own prints."""
    record = new_record()
    record["load"].append(machine.load())
    if not (BENCHMARKS / arguments[0]).exists():
        record["not_run"][name] = f"benchmarks/{arguments[0]} does not exist"
    else:
        _say(f"running benchmarks/{' '.join(arguments)}")
        command = [sys.executable, str(BENCHMARKS / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        record["output"] = done.stdout.splitlines()
        if done.returncode:
            record["not_run"][name] = f"ended with status {done.returncode}: {done.stderr[-300:]}"
    results.keep(name, record)
    _say("\n".join(record.get("output", [])))


def summary(name: str, record: Record) -> str:
    """Return one line: the medians so far."""
    found = []
    for contender, samples in record["samples"].items():
        values = [each["tokens_per_s"] if isinstance(each, dict) else each for each in samples]
        found.append(f"{contender} {statistics.median(values):.4g}")
    return f"{name}: " + ", ".join(found)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
