"""Engines that answer cases: programs that stay (``peers.case_loop``), and llama.cpp's own benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from comparison import rows
from comparison.processes import Family

BENCHMARKS = Path(__file__).resolve().parents[1]
PROGRAMS = BENCHMARKS / "peers"
DECODE_PROMPT = 32


class NotRunError(Exception):
    """A contender cannot be measured here; the message says why, and what to do."""


Sample_co = TypeVar("Sample_co", covariant=True)


class Contender(Protocol[Sample_co]):
    """An engine or a server.

    Attributes:
        facts: what is known of it once it has started: ``version``, ``start_s`` and, of ours, which
            instructions run.
        warms_up: whether its first sample of a row is slower than those that follow.
        families: its processes; none if it has some only while it measures.
    """

    facts: dict[str, Any]
    warms_up: bool
    families: tuple[Family, ...]

    def measure(self, row: rows.Row) -> Sample_co:
        """Return a sample: of an engine tokens a second, or of ``overhead`` a share."""
        ...


class Program:
    """A program that answers cases line by line.

    Args:
        command: starts it.
        log: takes what it writes to standard error.
        path: where it finds modules, besides its own directory.

    Raises:
        NotRunError: it is not installed, or ends before it is ready.
    """

    def __init__(self, command: Sequence[str], log: Path, path: str = "") -> None:
        if not Path(command[0]).exists():
            raise NotRunError("not installed (benchmarks/peers/install.sh)")
        self._log, self.warms_up = log, True
        with log.open("w") as errors:
            self._family = Family(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._process = self._family.program
        self.families: tuple[Family, ...] = (self._family,)
        self.facts: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._family.end()
            status = self._process.returncode
            raise NotRunError(f"ended with status {status} ({self._log.name})")
        read: dict[str, Any] = json.loads(line)
        return read

    def measure(self, row: rows.Row) -> float:
        """Return what the program measured."""
        assert self._process.stdin is not None
        print(
            json.dumps({"kind": row.kind, "size": row.size, "steps": row.steps}),
            file=self._process.stdin,
            flush=True,
        )
        return float(self._read()["value"])


class Llama:
    """llama.cpp: each sample is a run of llama-batched-bench or llama-bench, which load the model first.

    Raises:
        NotRunError: a program or the model is missing.
    """

    def __init__(self, peers: Path, model: str, threads: int) -> None:
        self._bin, path = peers / "build" / "bin", peers / f"{model}.gguf"
        for needed in (self._bin / "llama-bench", self._bin / "llama-batched-bench", path):
            if not needed.exists():
                raise NotRunError(f"{needed.name} is missing (benchmarks/peers/install.sh)")
        self._common = ["-m", str(path), "-t", str(threads)]
        self._threads, self.warms_up = str(threads), False
        self.families: tuple[Family, ...] = ()
        self.facts: dict[str, Any] = {"version": "llama.cpp of llama-cpp-python 0.3.36"}

    def _last_object(self, *command: str) -> dict[str, Any]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            raise NotRunError(f"{Path(command[0]).name} ended with status {done.returncode}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def measure(self, row: rows.Row) -> float:
        """Return tokens a second."""
        if row.kind == "decode":
            context = str(row.size * (DECODE_PROMPT + row.steps) + 256)
            sizes = ["-c", context, "-b", "2048", "-ub", "512", "-npp", str(DECODE_PROMPT)]
            command = [str(self._bin / "llama-batched-bench"), *self._common, "-tb", self._threads, *sizes]
            more = ["-ntg", str(row.steps), "-npl", str(row.size), "--output-format", "jsonl"]
            return float(self._last_object(*command, *more)["speed_tg"])
        command = [str(self._bin / "llama-bench"), *self._common, "-p", str(row.size), "-n", "0", "-r", "1"]
        return float(self._last_object(*command, "-o", "jsonl")["avg_ts"])


def starters(peers: Path, threads: int, logs: Path) -> dict[str, Callable[[], Contender[float]]]:
    """Return what starts each contender, by its name in ``rows``."""

    def ours(name: str, shape: str, quantization: str, *activation: str) -> Callable[[], Contender[float]]:
        command = [sys.executable, str(PROGRAMS / "ours.py"), shape, str(threads), quantization, *activation]
        return lambda: Program(command, logs / f"{name}.log", str(BENCHMARKS))

    def peer(name: str, program: str, *arguments: str) -> Callable[[], Contender[float]]:
        command = [str(peers / name / "bin" / "python"), str(PROGRAMS / program), *arguments]
        return lambda: Program(command, logs / f"{name}.log")

    checkpoint = peers / "checkpoint"

    return {
        rows.OURS: ours("ours-wint8", "0.3b", "wint8"),
        rows.OURS_BF16: ours("ours-bf16", "0.3b", "", "bfloat16"),
        rows.OURS_21B: ours("ours-21b", "21b-a3b", "wint4"),
        rows.OURS_21B_INT4: ours("ours-21b-int4", "21b-a3b", "wint4_all"),
        rows.LLAMA: lambda: Llama(peers, "dense-q8_0", threads),
        rows.LLAMA_BF16: lambda: Llama(peers, "dense-bf16", threads),
        rows.LLAMA_21B: lambda: Llama(peers, "moe-q4_0", threads),
        rows.VLLM: peer("vllm", "vllm_cases.py", str(checkpoint)),
        rows.OPENVINO: peer(
            "openvino",
            "openvino_cases.py",
            f"{checkpoint}/config.json",
            f"{peers}/openvino-model",
            str(threads),
        ),
    }
