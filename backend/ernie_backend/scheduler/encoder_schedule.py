"""Which medium is encoded next, and whose embeddings are kept. Policy only: it counts tokens.

A token of a medium can be computed only when the medium has its embeddings. Those of all media that a request's
next step may reach are encoded before the request goes on, so that many small pictures do not make many small
steps; nothing further ahead is, so a request of a hundred pictures holds no more embeddings than one of a few.
The prefix cache decides where a request begins: what it covers is not encoded.

Order. Requests in the batch come first, in their order of rank, then those that wait, in theirs. A medium that
several requests have is encoded once.

Capacity. Embeddings of at most ``capacity`` tokens are kept: first those that the next step of a request in the
batch needs, which are never dropped, then those of the waiting requests before the one in question, then what
was needed last. If the needed ones fill the capacity, encoding waits until the requests that have theirs have
used them. If there is none, it goes beyond the capacity: by one medium if that is larger than the capacity,
otherwise by the media of one request's step. So one request can always go on: there is no deadlock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ernie_backend.request.media import MediaItem, MediaSpan
from ernie_backend.request.sequence import Sequence as Request
from ernie_wire.errors import QueueFull


class EncoderTask(NamedTuple):
    """What to encode, and whose embeddings to drop before."""

    item: MediaItem
    dropped: tuple[bytes, ...]


class EncoderSchedule:
    """Knows which media are encoded.

    Args:
        capacity: tokens whose embeddings are kept.
        window: tokens that a step may compute of one request.
    """

    def __init__(self, capacity: int, window: int) -> None:
        self._capacity = capacity
        self._window = window
        self._encoded: OrderedDict[bytes, int] = OrderedDict()  # digest -> tokens, the last needed at the end

    def add(self, item: MediaItem) -> None:
        """Note that a medium is encoded."""
        self._encoded[item.digest] = item.num_tokens

    def ready_end(self, request: Request, start: int) -> int:
        """Return up to which token a step can compute a request that is computed up to ``start``."""
        if not request.media or start >= request.media[-1].end:
            return request.num_tokens
        ahead = [span for span in request.media if span.end > start]
        missing = next((span for span in ahead if not self._is_encoded(request, span)), None)
        if missing is None:
            return request.num_tokens
        needed = self._needed(request, start)
        first = needed[0] if missing in needed else missing
        return max(start, first.start)

    def is_ready(self, request: Request, start: int) -> bool:
        """Whether all media are encoded that the next step of a request may reach."""
        return all(self._is_encoded(request, span) for span in self._needed(request, start))

    def choose(
        self, running: Sequence[tuple[Request, int]], waiting: Iterable[tuple[Request, int]]
    ) -> EncoderTask | None:
        """Return what to encode next, and forget what that drops; None: nothing can or need be encoded now.

        Args:
            running: the requests in the batch, and how many tokens of each are computed.
            waiting: those that wait, and how many tokens of each are in the prefix cache.
        """
        kept: set[bytes] = set()
        may_exceed = True
        for request, start in running:
            needed = self._needed(request, start)
            encoded = [span for span in needed if self._is_encoded(request, span)]
            kept.update(_item(request, span).digest for span in encoded)
            may_exceed = may_exceed and not (needed and len(encoded) == len(needed))
        for requests in (running, waiting):
            for request, start in requests:
                needed = self._needed(request, start)
                for item in (_item(request, span) for span in needed):
                    if item.digest not in self._encoded:
                        return self._task(item, kept, may_exceed=may_exceed)
                    kept.add(item.digest)
                    self._encoded.move_to_end(item.digest)
                may_exceed = may_exceed and not needed
        return None

    def needs(self, request: Request, start: int, digest: bytes) -> bool:
        """Whether a request that is computed up to ``start`` has yet to compute tokens of a medium."""
        return any(span.end > start and _item(request, span).digest == digest for span in request.media)

    def _needed(self, request: Request, start: int) -> list[MediaSpan]:
        """Return the media that the next step may reach, as many as can be kept, at least one."""
        needed: list[MediaSpan] = []
        num_tokens = 0
        for span in request.media:
            if span.end > start:
                num_tokens += _item(request, span).num_tokens
                if span.start >= start + self._window or (needed and num_tokens > self._capacity):
                    break
                needed.append(span)
        return needed

    def _is_encoded(self, request: Request, span: MediaSpan) -> bool:
        return _item(request, span).digest in self._encoded

    def _task(self, item: MediaItem, kept: set[bytes], *, may_exceed: bool) -> EncoderTask | None:
        room = self._capacity - item.num_tokens
        if sum(self._encoded[digest] for digest in kept) > room and not may_exceed:
            return None
        excess = sum(self._encoded.values()) - room
        dropped = []
        for digest in [each for each in self._encoded if each not in kept]:
            if excess <= 0:
                break
            excess -= self._encoded.pop(digest)
            dropped.append(digest)
        return EncoderTask(item, tuple(dropped))


def check_media_room(request: Request, others: Iterable[Request], limit: int) -> None:
    """Check that prepared media of a request and of others take at most ``limit`` bytes, equal ones once.

    Raises:
        QueueFull: they take more; a request without others that have media is accepted in any case.
    """
    held = {item.digest: item.patches.nbytes for each in others for item in each.media_items}
    more = {item.digest: item.patches.nbytes for item in request.media_items if item.digest not in held}
    if held and more and sum(held.values()) + sum(more.values()) > limit:
        raise QueueFull(
            f"images and videos of {sum(held.values())} bytes are in work, and {sum(more.values())} bytes more "
            f"are not accepted (limit {limit}); retry after 1 s",
            retry_after_s=1,
        )


def _item(request: Request, span: MediaSpan) -> MediaItem:
    return request.media_items[span.index]
