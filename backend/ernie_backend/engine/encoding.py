"""Media are encoded beside the steps, so that running answers do not stall.

Before each step the encoder works about as long as the model did in the last one, at least one piece; when
nothing else can be computed, it works for ``ALONE_S`` at a time, so that arrivals and cancels are seen. The
longest gap between two tokens of an answer is thus about twice a step, or a step and a piece.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from ernie_backend.request.media import MediaItem
from ernie_backend.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)

ALONE_S = 0.1


class MediaEncoder(Protocol):
    """What encodes media: ``runner.encoder.Encoder``."""

    def start(self, item: MediaItem) -> None:
        """Begin with a medium; the one before is finished or dropped."""
        ...

    def advance(self) -> bool:
        """Do one bounded piece of the work; return whether that was the last one."""
        ...

    def drop(self, digests: Iterable[bytes]) -> None:
        """Forget embeddings, and the work on those that are not finished."""
        ...


class Encoding:
    """Gives an encoder its work and its share of the time."""

    def __init__(self, encoder: MediaEncoder, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        self._encoder = encoder
        self._scheduler = scheduler
        self._clock = clock
        self._current: MediaItem | None = None

    def work(self, step_s: float) -> MediaItem | None:
        """Encode what is needed next; return a medium that cannot be encoded.

        Args:
            step_s: how long the last step computed; 0 if it had nothing to compute.
        """
        self.drop_unneeded()
        share_s = step_s or ALONE_S
        begin = self._clock()
        while (item := self._current or self._next()) is not None:
            try:
                is_finished = self._advance(item)
            except Exception:
                logger.exception("a medium of grid %s cannot be encoded", item.grid)
                self._encoder.drop((item.digest,))
                self._current = None
                return item
            if is_finished:
                self._scheduler.finish_medium(item)
                self._current = None
            if self._clock() - begin >= share_s:
                break
        return None

    def drop_unneeded(self) -> None:
        """Stop encoding what no request needs any more."""
        if self._current is not None and next(self._scheduler.needing(self._current.digest), None) is None:
            self._encoder.drop((self._current.digest,))
            self._current = None

    def _next(self) -> MediaItem | None:
        """Drop what makes room for the next medium; return it."""
        task = self._scheduler.next_medium()
        if task is None:
            return None
        if task.dropped:
            self._encoder.drop(task.dropped)
        return task.item

    def _advance(self, item: MediaItem) -> bool:
        if self._current is None:
            self._encoder.start(item)
            self._current = item
        return self._encoder.advance()
