"""A real ``ernie-triton serve`` for tests: started, waited for, and searched for what it leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

DATA = Path(__file__).parents[1] / "data"
DENSE = DATA / "dense"
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 60.0
_TRITON_GRPC = re.compile(r"^Triton: .* (\d+) \(gRPC\)")
_READY = re.compile(r"Launching chat completion service at (\S+)/v1/chat/completions")


class Serving:
    """One ``ernie-triton`` process; its output is kept."""

    def __init__(self, *arguments: str) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="e2e-serve-"))
        self._lines: list[str] = []
        self._is_ready = threading.Event()
        self.url = ""
        self.process = psutil.Popen(
            [sys.executable, "-m", "ernie_cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._regions = {entry.name for entry in Path("/dev/shm").iterdir()}
        self._started: list[psutil.Process] = []

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.append(line.rstrip("\n"))
            if match := _READY.search(line):
                self.url = match[1]
                self._is_ready.set()
        self._is_ready.set()

    @property
    def output(self) -> list[str]:
        """The lines printed so far, standard output and error together."""
        return list(self._lines)

    def wait_until_ready(self) -> str:
        """Return the base URL; fails with the output if the process ended instead."""
        assert self._is_ready.wait(START_DEADLINE_S), self.output
        assert self.url, "\n".join(self.output)
        self._started = self.process.children(recursive=True)
        return self.url

    @property
    def triton_grpc(self) -> str:
        """Address of Triton's gRPC port, as printed at the start."""
        found = [match[1] for line in self._lines if (match := _TRITON_GRPC.search(line))]
        return f"127.0.0.1:{found[0]}"

    def descendants(self, name: str) -> list[psutil.Process]:
        """Return the processes below this one whose command line holds ``name``."""
        return [
            process
            for process in self.process.children(recursive=True)
            if any(name in argument for argument in process.cmdline())
        ]

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        status = int(self.process.wait(STOP_DEADLINE_S))
        self._reader.join(STOP_DEADLINE_S)
        return status

    def leftovers(self) -> list[str]:
        """Return whatever is left: processes, files, shared memory regions of ours."""
        _, alive = psutil.wait_procs(self._started, STOP_DEADLINE_S)
        files = [str(path) for path in self.temporary.iterdir()]
        regions = {entry.name for entry in Path("/dev/shm").glob("ernie-triton-*")} - self._regions
        mine = [region for region in regions if f"-{self.process.pid}-" in region]
        return [*map(str, alive), *files, *mine]

    def close(self) -> None:
        """End the process in any case."""
        for process in (
            [*self.process.children(recursive=True), self.process] if self.process.is_running() else []
        ):
            if process.is_running():
                process.kill()
        self.process.wait(STOP_DEADLINE_S)
        self._reader.join(STOP_DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
