"""What rank 0 knows of a rank's life, and which rank hangs.

A rank hangs if its main thread does not move although it must: it uses no CPU time, gets no page from a disk,
begins and ends no meeting with the others. It must move while another rank is ahead of it, and so waits for it.
However long a step is, who works on it moves. Only beats say that a rank does not move: one that sends none, as
it was stopped, is silent, and has another message. This module must not know how beats come, nor what is done
about a rank that hangs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ernie_backend.parallel.messages import Beat


class VitalSigns:
    """Those of one rank.

    Attributes:
        name: for people.
        has_loaded: it has its part of the model.
        heard_at: when it was last heard, by the monotonic clock.
        moved_at: when it last moved, or need not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_loaded = False
        self.heard_at = self.moved_at = time.monotonic()
        self._beat = Beat((), 0)

    @property
    def meetings(self) -> int:
        """See ``Beat``."""
        return self._beat.meetings

    @property
    def is_held(self) -> bool:
        """See ``Beat``."""
        return self._beat.is_held

    def note(self, beat: Beat) -> bool:
        """Take note of a beat; return whether the rank has moved since the one before."""
        has_moved = beat != self._beat
        self._beat = beat
        self.heard_at = time.monotonic()
        if has_moved:
            self.moved_at = self.heard_at
        return has_moved


def find_hanging(
    ranks: Sequence[VitalSigns], now: float, allowed_s: float, *, is_loading: bool
) -> VitalSigns | None:
    """Return the rank that has not moved for ``allowed_s`` although it must, else None; call it often.

    Who must move: who has met the others less often than one of them, who is held, and who loads, unless in a
    meeting.
    """
    most = max(rank.meetings for rank in ranks)
    for rank in ranks:
        must_load = is_loading and not rank.has_loaded and rank.meetings % 2 == 0
        if rank.meetings == most and not must_load and not rank.is_held:
            rank.moved_at = now
    late = [rank for rank in ranks if rank.heard_at - rank.moved_at > allowed_s]
    first = min(late, key=lambda rank: (not rank.is_held, rank.meetings), default=None)
    if first is None or first.is_held or first.meetings % 2 == 0:
        return first
    # Inside a meeting: if others are there too, they wait for the one that hangs, will give up and leave it.
    return first if [rank.meetings for rank in ranks].count(first.meetings) == 1 else None
