"""The machine: what it is, and its limits, which ``probe.cpp`` measures beside every row."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("probe.cpp")
OF_INTEREST = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
)
"""Flags of /proc/cpuinfo that kernels make use of."""
MEMORY_MIB = 2048
"""Of the probe of memory; more than any cache of a processor here."""


_OF_HALVES = ("tdpbssd", "vpdpbusd zmm", "vpdpbusd ymm")


class Probe:
    """``probe.cpp``, built into ``directory`` and running."""

    def __init__(self, directory: Path) -> None:
        program = directory / "probe"
        if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
            command = ["g++", "-O2", "-std=c++17", "-pthread", str(SOURCE), "-o", str(program)]
            subprocess.run(command, check=True)
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def read(self, mebibytes: int, threads: int) -> float:
        """Return GB/s of threads that read ``mebibytes`` again and again."""
        return float(self._ask(f"read {mebibytes} {threads}"))

    def peaks(self, threads: int) -> dict[str, float]:
        """Return GOP/s of this processor's instructions, and of those on bytes for int16 in halves."""
        found = {name: float(self._ask(f"peak {name} {threads}")) for name in self._ask("names").split(",")}
        return found | {f"{name} twice": found[name] / 2 for name in _OF_HALVES if name in found}

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def fingerprint() -> dict[str, Any]:
    """Return what the machine is."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    values = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = set(values.get("flags", "").split())
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": values.get("model name", platform.processor()),
        "family": values.get("cpu family", ""),
        "model": values.get("model", ""),
        "flags": [name for name in OF_INTEREST if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str:
    """Return the commit that is measured; empty outside a checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def load() -> float:
    """Return the machine's load of the last minute."""
    return round(os.getloadavg()[0], 1)
