"""The memory that was needed and there when the kernel killed a process, for the last line of an error."""

from __future__ import annotations

from pathlib import Path

from ernie_backend.devices.host import own_cgroups, total_bytes
from ernie_backend.planning.units import format_bytes


class OomReport:
    """Counts the kills of the kernel's OOM killer since it was made."""

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
            evidence = "but the OOM killer of this container did not strike: another process sent the signal"
        return (
            f"memory needed: {format_bytes(weights_bytes)} for the weights, and the KV cache; had: "
            f"{format_bytes(limit)} ({whose}); {evidence}. Take a smaller --max-model-len, --max-num-seqs or"
            " --gpu-memory-utilization, or --quantization wint8"
        )

    def _limit(self) -> tuple[int, str]:
        total = total_bytes(self._root)
        limits = [group.limit for group in own_cgroups(self._root)]
        least = min((each for each in limits if each is not None), default=total)
        return (least, "limit of the container") if least < total else (total, "all of the machine")

    def _oom_kills(self) -> int | None:
        counts = (group.oom_kills for group in own_cgroups(self._root))
        return next((each for each in counts if each is not None), None)
