"""The memory of the host, as far as this process may use it.

This module must not know what the memory is for.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CGROUP_FILES = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit, usage, and what memory.stat calls file cache that the kernel drops when memory is needed."""


def available_bytes(root: Path = Path("/")) -> int:
    """Return the bytes this process can still take: MemAvailable, cut to what its cgroup leaves."""
    free = _field(root / "proc/meminfo", "MemAvailable:")
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free is None else free * 1024
    for folder, limit_file, usage_file, cache in _CGROUP_FILES:
        limit, usage = _number(root / folder / limit_file), _number(root / folder / usage_file)
        if limit is not None and usage is not None:
            dropped = _field(root / folder / "memory.stat", cache) or 0
            available = min(available, max(0, limit - max(0, usage - dropped)))
    return available


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def release_freed() -> None:
    """Give memory that was freed back to the system, where the C library can: glibc keeps it otherwise.

    Loading frees a temporary beside each weight that stays; what lies between the weights is never trimmed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _field(path: Path, name: str) -> int | None:
    """Return the number beside a name; None if the file or the name is not there."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(row[1]) for row in rows if row[:1] == [name]), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
