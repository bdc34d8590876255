"""The thread that prepares requests, so that a long prompt delays no step and no cancel.

A request that is cancelled while it waits here or is being prepared never reaches the loop. This module must
not know sockets or the engine.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from ernie_backend.engine.sequence import Sequence
from ernie_backend.inbox import Inbox
from ernie_wire.errors import ErnieError, InternalError
from ernie_wire.messages import Cancel, GenerateRequest, Output

logger = logging.getLogger(__name__)


class PreparationThread:
    """Prepares requests in the order they came and puts the results into the inbox."""

    def __init__(self, prepare: Callable[[GenerateRequest], Sequence], inbox: Inbox) -> None:
        self._prepare = prepare
        self._inbox = inbox
        self._requests: queue.SimpleQueue[GenerateRequest] = queue.SimpleQueue()
        self._pending: set[str] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="preparation", daemon=True).start()

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request."""
        with self._lock:
            self._pending.add(request.request_id)
        self._requests.put(request)

    def cancel(self, cancel: Cancel) -> None:
        """Cancel a request, here or in the loop."""
        with self._lock:
            if cancel.request_id in self._pending:
                self._pending.discard(cancel.request_id)
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
                    self._pending.discard(request.request_id)
                    self._inbox.put(result)

    def _result(self, request: GenerateRequest) -> Sequence | Output:
        try:
            return self._prepare(request)
        except ErnieError as error:
            return Output(request.request_id, error=error.to_line())
        except Exception:
            logger.exception("request %s could not be prepared", request.request_id)
            failure = InternalError("the request could not be prepared; the engine's log says why")
            return Output(request.request_id, error=failure.to_line())
