"""How many cores this process may use: its affinity, cut to its cgroup's quota."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(root)
    return max(1, min(cores, int(quota)) if quota is not None else cores)


def _quota(root: Path) -> float | None:
    """Return the cores' worth of time that the cgroup grants; None if it does not limit."""
    try:
        limit, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)
