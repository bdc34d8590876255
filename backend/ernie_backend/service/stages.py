"""The stages of a start: what each took in time and memory, from the beginning of the process.

This module must not know what the stages do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ernie_wire.status import Stage


class Stages:
    """The stages so far. The first one is the start of the process itself, up to here."""

    def __init__(self, first: str) -> None:
        self.list = [Stage(first, process_age_s())]

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage; the body may set its ``size_bytes``. A stage that fails is not kept."""
        stage = Stage(name)
        started = time.monotonic()
        yield stage
        stage.seconds = time.monotonic() - started
        self.list.append(stage)


def process_age_s() -> float:
    """Return the seconds since this process was started, to the kernel's tick of 10 ms."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # starttime: proc(5)
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
