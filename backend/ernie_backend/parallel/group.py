"""The group as rank 0 has it: what all ranks agree on, the steps they are told, and their end.

One rank that dies, fails, falls silent or hangs ends the group: without its part there are no sums. Each rank
beats from a thread of its own, so silence means that the process is dead, stopped, or out of reach; what the
beats say tells who hangs. Rank 0 is judged like the others. This module must not know how ranks are started,
nor what a step computes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.parallel.member import Member
from ernie_backend.parallel.messages import AllHere, Allocate, Step
from ernie_backend.parallel.pulse import Pulse
from ernie_backend.parallel.vital_signs import VitalSigns, find_hanging
from ernie_kernels.api import Batch

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_SLEPT_S = 2.0
_EXPLAIN_S = 12.0  # longer than it takes to see who hangs in a meeting that has failed


@dataclass(frozen=True)
class Patience:
    """How long a rank may be silent, and how long it may not move although it must.

    Attributes:
        loading_s: until all are loaded: a thread can wait long for a disk.
        serving_s: afterwards.
    """

    loading_s: float = 120.0
    serving_s: float = 10.0


class GroupWatch:
    """Who is told how the ranks fare; this one ends the process when one is lost."""

    def moved(self) -> None:
        """Take note that a rank has got on with loading; called on any thread."""

    def lost(self, cause: str, _: int | None, /) -> None:
        """End this process, since a rank has ended or hangs; called once, on any thread.

        Args:
            cause: in words.
            _: the signal that ended the rank, or None.
        """
        logger.error("the group of ranks ends: %s", cause)
        logging.shutdown()
        os._exit(1)


class Group:
    """The other ranks.

    Args:
        members: them, in order.
        watch: is told how they fare.
        patience: how long a rank may be silent or not move.
    """

    def __init__(
        self,
        members: Sequence[Member],
        watch: GroupWatch,
        patience: Patience | None = None,
    ) -> None:
        self._members = members
        self._told = watch
        self._patience = patience or Patience()
        self._is_loading = True
        self._pulse: Pulse | None = None
        self._own = VitalSigns("rank 0")
        self._is_over = threading.Event()
        self._is_told = threading.Event()
        self._lock = threading.Lock()
        for member in members:
            member.listen(self._lose, self._move)
        threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def lead(self, pulse: Pulse) -> None:
        """From now on judge rank 0 by this pulse, and the others by it."""
        self._pulse = pulse

    def come(self) -> None:
        """Wait until all are about to join Paddle's group, and let them."""
        while not all(member.is_here for member in self._members):
            self._pause()
        for member in self._members:
            member.send(AllHere())

    def least_blocks(self, own: int) -> int:
        """Wait until all have loaded; return the KV cache blocks that every rank has memory for."""
        self._own.has_loaded = True
        while any(member.loaded is None for member in self._members):
            self._pause()
        return min(own, *(member.loaded.num_blocks for member in self._members if member.loaded))

    def allocate(self, num_blocks: int) -> None:
        """Let the ranks allocate their KV cache; steps may follow."""
        for member in self._members:
            member.send(Allocate(num_blocks))
        self._is_loading = False

    def announce(self, batch: Batch) -> None:
        """Tell the ranks what is computed next."""
        for member in self._members:
            member.send(Step(batch))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """After an error inside, let the rank that is to blame be found first, and its cause be told.

        That the group is over is not enough: this process would end with its own error before the cause is
        sent. A clear error of rank 0's own is not kept back.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, StartError) or (self._pulse and self._pulse.collectives.has_failed):
                self._is_told.wait(_EXPLAIN_S)
            raise

    def kill(self) -> None:
        """End all other ranks."""
        self._is_over.set()
        for member in self._members:
            member.kill()

    def _pause(self) -> None:
        """Let some time pass; raise StartError if the group is over."""
        if self._is_over.wait(_TICK_S):
            self._is_told.wait(_EXPLAIN_S)
            raise StartError("a rank was lost while it loaded; the log says which")

    def _move(self) -> None:
        if self._is_loading:
            self._told.moved()

    def _lose(self, cause: str, exit_signal: int | None = None) -> None:
        with self._lock:
            if self._is_over.is_set():
                return
            self.kill()
        self._told.lost(cause, exit_signal)
        self._is_told.set()

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._is_over.wait(_TICK_S):
            now = time.monotonic()
            if now - looked_at > _SLEPT_S:  # it was this process that slept: what it missed is not heard yet
                for rank in (self._own, *(member.signs for member in self._members)):
                    rank.heard_at = rank.moved_at = now
            looked_at = now
            self._judge(now)

    def _judge(self, now: float) -> None:
        patience_s = self._patience.loading_s if self._is_loading else self._patience.serving_s
        others = [member.signs for member in self._members]
        for rank in others:
            if now - rank.heard_at > patience_s:
                silence = f"{rank.name} has been silent for {patience_s:g} s"
                self._lose(f"{silence}: it hangs, was stopped, or is out of reach")
        if self._pulse is None:
            return
        self._own.note(self._pulse.beat())
        hanging = find_hanging([self._own, *others], now, patience_s, is_loading=self._is_loading)
        if hanging is not None:
            when = "while it loads" if self._is_loading else "in a step"
            self._lose(f"{hanging.name} hangs {when}: its main thread has not moved for {patience_s:g} s")
