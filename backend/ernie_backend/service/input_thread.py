"""The thread that prepares requests, so that a long prompt delays neither a step nor a cancel.

A request that is cancelled while it waits here or is being prepared never reaches the loop. The requests that
wait here are bounded: further ones are refused. A request that waits for its media or its grammar holds up no
other one: the thread that has prepared the media hands the request back to this one, and the thread that has
compiled the grammar passes it on. Neither begins with it after a cancel.
"""

from __future__ import annotations

import logging
import operator
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from ernie_backend.engine.request_state import RequestState
from ernie_backend.request.media import MediaItem, Medium
from ernie_backend.service.engine_loop import Inbox
from ernie_wire.errors import ErnieError, InternalError, QueueFull
from ernie_wire.messages import Cancel, GenerateRequest, Output

MAX_PENDING_BYTES, MAX_PENDING_MEDIA_BYTES = 64 << 20, 512 << 20

_Result = TypeVar("_Result")
_Prepared = Future[tuple[MediaItem, ...]]

logger = logging.getLogger(__name__)


class Processor(Protocol):
    """Turns a client's request into the engine's, like ``InputProcessor``."""

    def media_of(self, request: GenerateRequest, /) -> Sequence[Medium]:
        """Return the media that are to be prepared first."""

    def process(self, request: GenerateRequest, items: tuple[MediaItem, ...], /) -> RequestState:
        """Return the request with what was made of its media."""


class InputThread:
    """Prepares requests in the order of arrival and puts the results into the inbox.

    Args:
        processor: turns a client's request into the engine's; only this thread calls it.
        inbox: of the engine loop.
        max_pending: limit of requests that wait here.
        prepare: begins to prepare media, on other threads.
        max_pending_bytes: limit of the bytes of their prompts.
        max_pending_media_bytes: limit of the bytes of their media.
    """

    def __init__(
        self,
        processor: Processor,
        inbox: Inbox,
        max_pending: int,
        prepare: Callable[[Sequence[Medium]], _Prepared] | None = None,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        max_pending_media_bytes: int = MAX_PENDING_MEDIA_BYTES,
    ) -> None:
        self._processor = processor
        self._inbox = inbox
        self._prepare_media = prepare
        self._limits = (max_pending, max_pending_bytes, max_pending_media_bytes)
        self._requests: queue.SimpleQueue[tuple[GenerateRequest, _Prepared | None]] = queue.SimpleQueue()
        self._pending: dict[str, GenerateRequest] = {}
        self._awaited: dict[str, Future[Any]] = {}  # media or grammars, that pending requests wait for
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="input", daemon=True).start()

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request, or refuse it at a limit."""
        with self._lock:
            sizes = [_sizes(each) for each in (*self._pending.values(), request)]
            totals = [sum(each) for each in zip(*sizes, strict=True)]
            if self._pending and any(map(operator.gt, totals, self._limits)):
                refusal = QueueFull(
                    "{} requests with {} bytes and {} of media would wait to be tokenized; at most {} with {} "
                    "and {} are accepted; retry after 1 s".format(*totals, *self._limits)
                )
                self._inbox.put(Output(request.request_id, error=refusal.to_line()))
                return
            self._pending[request.request_id] = request
        self._requests.put((request, None))

    def cancel(self, cancel: Cancel) -> None:
        """Cancel a request, here or in the loop."""
        with self._lock:
            if self._pending.pop(cancel.request_id, None) is None:
                self._inbox.put(cancel)
            awaited = self._awaited.pop(cancel.request_id, None)
        if awaited is not None:
            awaited.cancel()

    def _run(self) -> None:
        while True:
            request, media = self._requests.get()
            if self._is_pending(request):
                self._prepare(request, media)

    def _is_pending(self, request: GenerateRequest) -> bool:
        return self._pending.get(request.request_id) is request  # another one may have its id by now

    def _prepare(self, request: GenerateRequest, media: _Prepared | None) -> None:
        result = self._result(request.request_id, lambda: self._processed(request, media))
        if isinstance(result, Future):
            self._wait(request, result, lambda: self._requests.put((request, result)))
        elif isinstance(result, Output) or result.pending_mask is None:
            self._pass_on(request, result)
        else:
            state = result

            def pass_on() -> None:
                self._pass_on(request, self._result(request.request_id, lambda: _with_mask(state)))

            self._wait(request, result.pending_mask.grammar, pass_on)

    def _processed(self, request: GenerateRequest, media: _Prepared | None) -> RequestState | _Prepared:
        """Return the engine's form of a request, or its media, which another thread prepares."""
        if media is None and (files := self._processor.media_of(request)) and self._prepare_media is not None:
            return self._prepare_media(files)
        return self._processor.process(request, () if media is None else media.result())

    def _wait(self, request: GenerateRequest, awaited: Future[Any], go_on: Callable[[], None]) -> None:
        """Go on with a request when what it waits for is there, unless it is cancelled before."""
        with self._lock:
            is_pending = self._is_pending(request)
            if is_pending:
                self._awaited[request.request_id] = awaited
        if not is_pending:  # cancelled meanwhile
            awaited.cancel()
        awaited.add_done_callback(lambda done: None if done.cancelled() else go_on())

    def _pass_on(self, request: GenerateRequest, result: RequestState | Output) -> None:
        with self._lock:
            if self._is_pending(request):
                del self._pending[request.request_id]
                self._awaited.pop(request.request_id, None)
                self._inbox.put(result)

    def _result(self, request_id: str, make: Callable[[], _Result]) -> _Result | Output:
        """Return what ``make`` does, or the output that ends the request."""
        try:
            return make()
        except ErnieError as error:
            return Output(request_id, error=error.to_line())
        except Exception:
            logger.exception("request %s could not be prepared", request_id)
            failure = InternalError("the request could not be prepared; the engine's log says why")
            return Output(request_id, error=failure.to_line())


def _sizes(request: GenerateRequest) -> tuple[int, int, int]:
    """Return what a request counts for each limit: one, the bytes of its prompt and of its media."""
    return 1, request.prompt_bytes - request.media_bytes, request.media_bytes


def _with_mask(state: RequestState) -> RequestState:
    state.start_mask()
    return state
