"""What memory there was when the kernel killed something: need and have, for the last line of an error.

This module must not know which process was killed.
"""

from __future__ import annotations

from pathlib import Path

_CGROUP = "sys/fs/cgroup"
_GIB = 2**30


class MemoryReport:
    """Watches the OOM killer's counter from its creation on."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._kills = self._oom_kills()

    def on_kill(self, weights_bytes: int) -> str:
        """Return the sentence on memory after a SIGKILL.

        Args:
            weights_bytes: of the model's files, the least that is needed.
        """
        limit, whose = self._limit()
        kills = self._oom_kills()
        if kills is None or self._kills is None:
            evidence = "the kernel's count of such kills cannot be read"
        elif kills > self._kills:
            evidence = f"the kernel's OOM killer struck {kills - self._kills} times since the start"
        else:
            evidence = "but the OOM killer of this container did not strike: look for who sent it"
        return (
            f"memory needed: {weights_bytes / _GIB:.2f} GiB for the weights, and the KV cache; had: "
            f"{limit / _GIB:.2f} GiB ({whose}); {evidence}. Take a smaller --max-model-len, --max-num-seqs or"
            " --gpu-memory-utilization, or --quantization wint8"
        )

    def _limit(self) -> tuple[int, str]:
        total = self._meminfo("MemTotal")
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            limit = self._number(self._root / _CGROUP / name)
            if limit is not None and limit < total:
                return limit, "limit of the container"
        return total, "all of the machine"

    def _meminfo(self, field: str) -> int:
        for line in (self._root / "proc/meminfo").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        return 0

    def _oom_kills(self) -> int | None:
        for name in ("memory.events", "memory/memory.oom_control"):
            try:
                lines = (self._root / _CGROUP / name).read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return None

    @staticmethod
    def _number(path: Path) -> int | None:
        try:
            return int(path.read_text())
        except (OSError, ValueError):  # absent, or "max"
            return None
