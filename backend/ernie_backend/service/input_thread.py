"""The thread that prepares requests, so that a long prompt delays neither a step nor a cancel.

A request that is cancelled while it waits here or is being prepared never reaches the loop. The requests that
wait here are bounded: further ones are refused.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from ernie_backend.engine.request_state import RequestState
from ernie_backend.service.engine_loop import Inbox
from ernie_wire.errors import ErnieError, InternalError, QueueFull
from ernie_wire.messages import Cancel, GenerateRequest, Output

MAX_PENDING_BYTES = 64 << 20

logger = logging.getLogger(__name__)


class InputThread:
    """Prepares requests in the order of arrival and puts the results into the inbox.

    Args:
        process: turns a client's request into the engine's.
        inbox: of the engine loop.
        max_pending: limit of requests that wait here.
        max_pending_bytes: limit of the bytes of their prompts.
    """

    def __init__(
        self,
        process: Callable[[GenerateRequest], RequestState],
        inbox: Inbox,
        max_pending: int,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self._process = process
        self._inbox = inbox
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._requests: queue.SimpleQueue[GenerateRequest] = queue.SimpleQueue()
        self._pending: dict[str, int] = {}  # bytes of each request's prompt
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="input", daemon=True).start()

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request, or refuse it at a limit."""
        size = request.prompt_bytes
        with self._lock:
            waiting = sum(self._pending.values())
            if self._pending and (
                len(self._pending) >= self._max_pending or waiting + size > self._max_pending_bytes
            ):
                refusal = QueueFull(
                    f"{len(self._pending)} requests with {waiting} bytes wait to be tokenized; at most "
                    f"{self._max_pending} with {self._max_pending_bytes} are accepted; retry after 1 s"
                )
                self._inbox.put(Output(request.request_id, error=refusal.to_line()))
                return
            self._pending[request.request_id] = size
        self._requests.put(request)

    def cancel(self, cancel: Cancel) -> None:
        """Cancel a request, here or in the loop."""
        with self._lock:
            if cancel.request_id in self._pending:
                del self._pending[cancel.request_id]
            else:
                self._inbox.put(cancel)

    def _run(self) -> None:
        while True:
            request = self._requests.get()
            if request.request_id not in self._pending:
                continue
            result = self._result(request)
            with self._lock:
                if request.request_id in self._pending:
                    del self._pending[request.request_id]
                    self._inbox.put(result)

    def _result(self, request: GenerateRequest) -> RequestState | Output:
        try:
            return self._process(request)
        except ErnieError as error:
            return Output(request.request_id, error=error.to_line())
        except Exception:
            logger.exception("request %s could not be prepared", request.request_id)
            failure = InternalError("the request could not be prepared; the engine's log says why")
            return Output(request.request_id, error=failure.to_line())
