"""The host: its cores and its memory, as far as this process may use them."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_HIERARCHIES = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "memory.events", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "memory.oom_control",
        "total_inactive_file",
    ),
}
"""Controller in /proc/self/cgroup (version 2 names none) -> folder of all groups, and fields of ``Cgroup``."""
_PROCESS_LIMITS = (("Max address space", "VmSize:"), ("Max data size", "VmData:"))
"""Rows of /proc/self/limits (``ulimit -v`` and ``-d``), and what of /proc/self/status counts towards each."""
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
"""What Docker and Podman leave in the root of a container."""
_CONTAINER_GROUPS = re.compile(r"docker|containerd|kubepods|libpod|/lxc[/.]")
"""In the names of a container's control groups, where they are the host's."""
_CONTAINER_VARIABLES = ("KUBERNETES_SERVICE_HOST", "container")
"""Set in every container of Kubernetes; by Podman and systemd-nspawn."""
_NO_OVERCOMMIT = 2
"""The value of vm.overcommit_memory under which the kernel counts what is reserved, not what is touched."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: its affinity, cut to its cgroup's quota; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota(root)
    return max(1, min(cores, int(quota)) if quota is not None else cores)


@dataclass(frozen=True)
class Cgroup:
    """A control group that counts this process's memory: its own, or one around it.

    Attributes:
        folder: of its files.
        limit_name, usage_name, events_name: names of files.
        cache_field: of memory.stat: file cache that the kernel drops when memory is needed.
    """

    folder: Path
    limit_name: str
    usage_name: str
    events_name: str
    cache_field: str

    @property
    def limit(self) -> int | None:
        """Its limit in bytes; None: no limit."""
        return _number(self.folder / self.limit_name)

    @property
    def left(self) -> int | None:
        """Bytes left of the limit; None: no limit."""
        limit, usage = self.limit, _number(self.folder / self.usage_name)
        if limit is None or usage is None:
            return None
        return limit - max(0, usage - (_field(self.folder / "memory.stat", self.cache_field) or 0))

    @property
    def oom_kills(self) -> int | None:
        """How often the kernel's OOM killer killed a process in it; None: not counted."""
        return _field(self.folder / self.events_name, "oom_kill")


def is_container(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a container, as far as its marks can tell."""
    return (
        any((root / name).exists() for name in _CONTAINER_FILES)
        or any(environment.get(name) for name in _CONTAINER_VARIABLES)
        or any(_CONTAINER_GROUPS.search(row) for row in _lines(root / "proc/self/cgroup"))
    )


def own_cgroups(root: Path = Path("/")) -> list[Cgroup]:
    """Return the groups that this process is in, from the innermost outwards; some may lack files."""
    groups = []
    for row in _lines(root / "proc/self/cgroup"):
        _, controllers, path = row.split(":", 2)
        for controller, (folder, *names) in _HIERARCHIES.items():
            if controller in controllers.split(","):
                # A container may see the host's path; then only the last of these folders exists: its own.
                own = Path(path.lstrip("/"))
                groups += [Cgroup(root / folder / each, *names) for each in (own, *own.parents)]
    return groups


def available_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that this process can still take.

    They are MemAvailable, cut to what its cgroups leave (its own and those around it), its own limits, and,
    where the kernel does not overcommit, what all processes have reserved.
    """
    free = _field(root / "proc/meminfo", "MemAvailable:")
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free is None else free * 1024
    left = [available, *_limits_leave(root), *_commitments_leave(root)]
    left += [group.left for group in own_cgroups(root) if group.left is not None]
    return max(0, min(left))


def total_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of memory that the machine has."""
    return (_field(root / "proc/meminfo", "MemTotal:") or 0) * 1024


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def release_freed() -> None:
    """Return freed memory to the system, where the C library can: glibc keeps it otherwise.

    Loading frees a temporary array next to each weight that stays; what lies between them is never trimmed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cpu_quota(root: Path) -> float | None:
    """Return the cgroup's limit of processor time, in cores; None: no limit."""
    try:
        limit, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)


def _limits_leave(root: Path) -> Iterator[int]:
    for row in _lines(root / "proc/self/limits"):
        for name, counted in _PROCESS_LIMITS:
            limit = row.removeprefix(name).split()[0] if row.startswith(name) else ""
            taken = _field(root / "proc/self/status", counted)
            if limit.isdigit() and taken is not None:  # or "unlimited"
                yield int(limit) - taken * 1024


def _commitments_leave(root: Path) -> Iterator[int]:
    meminfo = root / "proc/meminfo"
    limit, reserved = _field(meminfo, "CommitLimit:"), _field(meminfo, "Committed_AS:")
    is_strict = _number(root / "proc/sys/vm/overcommit_memory") == _NO_OVERCOMMIT
    if is_strict and limit is not None and reserved is not None:
        yield (limit - reserved) * 1024


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it does not exist."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _field(path: Path, name: str) -> int | None:
    """Return the number that follows a name; None if the file or the name is missing."""
    rows = (line.split() for line in _lines(path))
    return next((int(row[1]) for row in rows if row[:1] == [name]), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
