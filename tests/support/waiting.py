"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

WAIT_S = 100.0


def eventually(
    condition: Callable[[], object],
    message: Callable[[], object] = lambda: "did not come true",
    wait_s: float = WAIT_S,
) -> None:
    """Wait until a condition holds; fail with a message that is made then."""
    until = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < until, message()
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its parent has not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(pid: int) -> list[int]:
    """The processes that the first thread of a process has started and that are not reaped."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
