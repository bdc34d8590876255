"""Detects a rank that hangs.

A rank hangs if its main thread makes no progress although it must: it uses no CPU time, reads no page from a
disk, and neither begins nor ends a collective. It must make progress while another rank is ahead of it, because
that one waits for it. A rank that computes makes progress, however long a step takes.

Only heartbeats show that a rank makes no progress. A rank that sends none, because it is stopped or out of
reach, is silent: ``group.py`` detects that, with another message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from ernie_backend.parallel.messages import Heartbeat
from ernie_kernels.communicator import CollectiveCounter
from ernie_wire.processes import ProcessStat


class HeartbeatSource:
    """Reads the heartbeat of the thread that creates it; any thread may read.

    Attributes:
        collectives: for the rank's ``ProcessGroupConfig``.
    """

    def __init__(self) -> None:
        self.collectives = CollectiveCounter()
        self._thread = f"self/task/{threading.get_native_id()}"

    def read(self) -> Heartbeat:
        """Return the current heartbeat."""
        stat = ProcessStat.read(self._thread)
        return Heartbeat(stat.progress, self.collectives.count, is_stopped=stat.state in "Tt")


class RankLiveness:
    """What rank 0 knows of a rank's life. Times are those of the monotonic clock.

    Attributes:
        name: in messages.
        has_loaded: it has loaded its part of the model.
        heartbeat: the last one.
        heard_at: time of the last message.
        progressed_at: when it last made progress, or did not have to.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_loaded = False
        self.heartbeat = Heartbeat((), 0)
        self.heard_at = self.progressed_at = time.monotonic()

    def update(self, heartbeat: Heartbeat) -> bool:
        """Take a heartbeat; return whether the rank has made progress since the previous one."""
        has_progressed = heartbeat != self.heartbeat
        self.heartbeat = heartbeat
        self.heard_at = time.monotonic()
        if has_progressed:
            self.progressed_at = self.heard_at
        return has_progressed


def find_hanging(
    ranks: Sequence[RankLiveness], now: float, timeout_s: float, *, is_loading: bool
) -> RankLiveness | None:
    """Return the rank that has made no progress for ``timeout_s`` although it must, else None.

    A rank must make progress if it has done fewer collectives than another one, if it is stopped, and while it
    loads, unless it is inside a collective. Call this several times per ``timeout_s``: a rank's time begins at
    the first call that finds that it must.
    """
    most = max(rank.heartbeat.collectives for rank in ranks)
    for rank in ranks:
        must_load = is_loading and not rank.has_loaded and not _is_in_collective(rank)
        if rank.heartbeat.collectives == most and not must_load and not rank.heartbeat.is_stopped:
            rank.progressed_at = now
    late = [rank for rank in ranks if rank.heard_at - rank.progressed_at > timeout_s]
    # A stopped rank explains all others; otherwise they wait for the one that is furthest behind.
    first = min(
        late, key=lambda rank: (not rank.heartbeat.is_stopped, rank.heartbeat.collectives), default=None
    )
    if first is None or first.heartbeat.is_stopped or not _is_in_collective(first):
        return first
    # Several ranks inside the same collective look alike: those that wait will give up and leave the one that
    # hangs behind. Until then none is reported.
    counts = [rank.heartbeat.collectives for rank in ranks]
    return first if counts.count(first.heartbeat.collectives) == 1 else None


def _is_in_collective(rank: RankLiveness) -> bool:
    return rank.heartbeat.collectives % 2 == 1
