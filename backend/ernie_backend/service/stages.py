"""The stages of a start: what each took in time and memory, from the beginning of the process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ernie_wire.processes import ProcessStat
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
    """Return the seconds since this process was started, to a clock tick of 10 ms."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ProcessStat.read().start_s)
