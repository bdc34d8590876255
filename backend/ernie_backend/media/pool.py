"""Threads that prepare media beside the engine's loop, bounded in number and in the bytes that they hold.

The media of a request are prepared one after another, and requests take turns: one with a hundred images holds
up no other one. What was prepared lately is remembered, by the content of the file, its kind and its options.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ernie_backend.media.processor import MediaProcessor
from ernie_backend.request.media import RAISE_CONTEXT, MediaItem, Medium
from ernie_wire.errors import ContextLengthExceeded, ErnieError, InternalError, QueueFull

MAX_PENDING_BYTES = 512 << 20
"""Of the files of all requests that wait or are worked on; a single request may be above it."""
MAX_PREPARED_BYTES = 1 << 30
"""Of patches of unfinished requests; above it no further request is begun."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    """The media of a request, and what is prepared of them so far."""

    media: Sequence[Medium]
    future: Future[tuple[MediaItem, ...]] = field(default_factory=Future)
    items: list[MediaItem] = field(default_factory=list)
    prepared_bytes: int = 0

    @property
    def file_bytes(self) -> int:
        return sum(len(medium.data) for medium in self.media)

    def add(self, item: MediaItem) -> None:
        self.items.append(item)
        self.prepared_bytes += item.patches.nbytes

    def resolve(self, error: ErnieError | None = None) -> None:
        """End the job with its items or an error, unless it was cancelled."""
        if self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(tuple(self.items))
            else:
                self.future.set_exception(error)


class MediaPool:
    """Prepares media of requests.

    Args:
        processor: of the model.
        workers: number of threads.
        cache_bytes: of the patches that are remembered; 0: none are.
        max_pending_bytes: limit of the bytes of files that wait here.
        max_prepared_bytes: patches of unfinished requests above which no further request is begun.
    """

    def __init__(
        self,
        processor: MediaProcessor,
        workers: int,
        cache_bytes: int,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        max_prepared_bytes: int = MAX_PREPARED_BYTES,
    ) -> None:
        self._processor = processor
        self._cache = _Cache(cache_bytes)
        self._max_pending_bytes = max_pending_bytes
        self._max_prepared_bytes = max_prepared_bytes
        self._pending: set[_Job] = set()
        self._turns: deque[_Job] = deque()  # pending jobs that neither a thread nor another job works for
        self._in_work: dict[Hashable, list[_Job]] = {}  # key of an item -> further jobs that wait for it
        self._changed = threading.Condition()
        for index in range(workers):
            threading.Thread(target=self._run, name=f"media-{index}", daemon=True).start()

    def submit(self, media: Sequence[Medium]) -> Future[tuple[MediaItem, ...]]:
        """Begin with the media of a request.

        Returns:
            Their items in the same order, or the first error, which names its part, or that they exceed the
            context. A cancel ends the work after the current item.

        Raises:
            QueueFull: too many bytes are waiting already.
        """
        job = _Job(media)
        with self._changed:
            waiting = sum(each.file_bytes for each in self._pending)
            if self._pending and waiting + job.file_bytes > self._max_pending_bytes:
                raise QueueFull(
                    f"{len(self._pending)} requests with {waiting} bytes of media wait to be prepared; at most "
                    f"{self._max_pending_bytes} bytes are accepted; retry after 1 s"
                )
            self._pending.add(job)
        job.future.add_done_callback(lambda _: self._forget(job))
        self._continue(job, None)
        return job.future

    def _forget(self, job: _Job) -> None:
        with self._changed:
            self._pending.discard(job)
            if job in self._turns:
                self._turns.remove(job)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    self._changed.wait()
                self._turns.remove(job)
            try:
                self._advance(job)
            except ErnieError as error:
                where = job.media[len(job.items)].where
                job.resolve(type(error)(f"{where}: {error.message}", error.param))
            except Exception as error:
                logger.exception("media could not be prepared")
                job.resolve(InternalError(f"media could not be prepared: {type(error).__name__}"))

    def _next(self) -> _Job | None:
        """Return the job whose turn it is; one that is not begun waits until there is room for its patches."""
        has_room = sum(job.prepared_bytes for job in self._pending) <= self._max_prepared_bytes
        return next((job for job in self._turns if has_room or job.items), None)

    def _advance(self, job: _Job) -> None:
        """Prepare the next item of a job, or let it wait for the thread that is preparing the same."""
        medium = job.media[len(job.items)]
        resolved = self._processor.resolve(medium.kind, medium.options)
        key = (hashlib.blake2b(medium.data).digest(), medium.kind, resolved)
        with self._changed:
            item = self._cache.get(key)
            if item is None and key in self._in_work:
                self._in_work[key].append(job)
                return
            if item is None:
                self._in_work[key] = []
        self._continue(job, item or self._prepare(medium, key))

    def _prepare(self, medium: Medium, key: Hashable) -> MediaItem:
        """Prepare an item; the jobs that wait for it take it, too, or try it themselves after an error."""
        item = None
        try:
            item = self._processor.prepare(medium.data, medium.kind, medium.options)
        finally:
            with self._changed:
                waiting = self._in_work.pop(key)
                if item is not None:
                    self._cache.put(key, item)
            for job in waiting:
                self._continue(job, item)
        return item

    def _continue(self, job: _Job, item: MediaItem | None) -> None:
        """Give a job an item and its next turn, unless it has them all, too many tokens, or was cancelled."""
        if item is not None:
            job.add(item)
        num_tokens, limit = sum(item.num_tokens for item in job.items), self._processor.max_tokens
        if num_tokens > limit:
            first = f"The first {len(job.items)} of {len(job.media)} media"
            note = f"{first} take {num_tokens}; send fewer, {RAISE_CONTEXT}."
            job.resolve(ContextLengthExceeded.of(limit, num_tokens, 0, "messages", is_estimate=True, note=note))
            return
        if len(job.items) == len(job.media):
            job.resolve()
            return
        with self._changed:
            if job in self._pending:
                self._turns.append(job)
                self._changed.notify()


class _Cache:
    """Items by key, up to a number of bytes; the longest unused are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[Hashable, MediaItem] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> MediaItem | None:
        item = self._items.get(key)
        if item is not None:
            self._items.move_to_end(key)
        return item

    def put(self, key: Hashable, item: MediaItem) -> None:
        if item.patches.nbytes > self._max_bytes:
            return
        self._items[key] = item
        self._bytes += item.patches.nbytes
        while self._bytes > self._max_bytes:
            _, dropped = self._items.popitem(last=False)
            self._bytes -= dropped.patches.nbytes
