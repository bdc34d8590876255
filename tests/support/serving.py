"""A real ``ernie-triton serve`` for tests: started, waited for, and searched for what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from support.paths import DENSE

FLAGS = ("--model", str(DENSE), "--port", "0", "--host", "127.0.0.1", "--dtype", "float32")
"""The dense checkpoint on any free port of loopback, in the type of its goldens."""
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 60.0
_READY = re.compile(r"Launching chat completion service at (\S+)/v1/chat/completions")


class Serving:
    """One ``ernie-triton`` process; its output is kept.

    Args:
        arguments: of the command.
        environment: what is added to ours.
        program: what Python runs.
    """

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "ernie_cli"),
    ) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="e2e-serve-"))
        self._lines: list[str] = []
        self._is_ready = threading.Event()
        self.url = ""
        self.process = psutil.Popen(
            [sys.executable, *program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary), **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._regions = {entry.name for entry in Path("/dev/shm").iterdir()}

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
        return self.url

    @property
    def run_directory(self) -> Path:
        """The only run directory in its temporary directory."""
        (found,) = self.temporary.glob("ernie-triton-*")
        return found

    @property
    def triton_url(self) -> str:
        """Address of Triton's gRPC, while no port is asked for."""
        return f"unix:{self.run_directory}/triton.sock:0"

    def descendants(self, name: str) -> list[psutil.Process]:
        """Return the processes below this one, none that has ended, whose command line holds ``name``."""
        return [
            process
            for process in self.process.children(recursive=True)
            if any(name in argument for argument in command_line(process))
        ]

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        status = int(self.process.wait(STOP_DEADLINE_S))
        self._reader.join(STOP_DEADLINE_S)
        return status

    def leftovers(self) -> list[str]:
        """Return whatever is left: processes, files, shared memory regions of ours."""
        _, alive = psutil.wait_procs(self._running(), STOP_DEADLINE_S)
        files = [str(path) for path in self.temporary.iterdir()]
        regions = {entry.name for entry in Path("/dev/shm").glob("ernie-triton-*")} - self._regions
        mine = [region for region in regions if f"-{self.process.pid}-" in region]
        return [*map(str, alive), *files, *mine]

    def _running(self) -> list[psutil.Process]:
        """Return the processes with our temporary folder: nothing else tells where an orphan comes from."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it is another user's, or has just ended
                if process.environ().get("TMPDIR", "").startswith(str(self.temporary)):
                    found.append(process)
        return found

    def close(self) -> None:
        """End the process in any case, as a user does if it still can; leave nothing in /tmp and /dev/shm."""
        if self.process.is_running():
            self.process.terminate()
            psutil.wait_procs([self.process], STOP_DEADLINE_S)
        for process in (
            [*self.process.children(recursive=True), self.process] if self.process.is_running() else []
        ):
            if process.is_running():
                process.kill()
        self.process.wait(STOP_DEADLINE_S)
        self._reader.join(STOP_DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        for region in Path("/dev/shm").glob(f"ernie-triton-*-{self.process.pid}-*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(self.temporary)


def command_line(process: psutil.Process) -> list[str]:
    """Return a process's command line; empty if it has ended, reaped or not."""
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
