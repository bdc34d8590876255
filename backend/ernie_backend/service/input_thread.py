"""The thread that prepares requests, so that a long prompt delays neither a step nor a cancel.

A request that is cancelled while it waits here or is being prepared never reaches the loop. The requests that
wait here are bounded: further ones are refused. A request that waits for its grammar holds up no other one: the
thread that has compiled it passes the request on, and does not begin with it after a cancel.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from ernie_backend.engine.request_state import RequestState
from ernie_backend.grammar.compiler import CompiledGrammar
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
        self._pending: dict[str, GenerateRequest] = {}
        self._grammars: dict[str, Future[CompiledGrammar]] = {}  # that pending requests wait for
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="input", daemon=True).start()

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request, or refuse it at a limit."""
        size = request.prompt_bytes
        with self._lock:
            waiting = sum(each.prompt_bytes for each in self._pending.values())
            if self._pending and (
                len(self._pending) >= self._max_pending or waiting + size > self._max_pending_bytes
            ):
                refusal = QueueFull(
                    f"{len(self._pending)} requests with {waiting} bytes wait to be tokenized; at most "
                    f"{self._max_pending} with {self._max_pending_bytes} are accepted; retry after 1 s"
                )
                self._inbox.put(Output(request.request_id, error=refusal.to_line()))
                return
            self._pending[request.request_id] = request
        self._requests.put(request)

    def cancel(self, cancel: Cancel) -> None:
        """Cancel a request, here or in the loop."""
        with self._lock:
            if self._pending.pop(cancel.request_id, None) is None:
                self._inbox.put(cancel)
            grammar = self._grammars.pop(cancel.request_id, None)
        if grammar is not None:
            grammar.cancel()

    def _run(self) -> None:
        while True:
            request = self._requests.get()
            if self._is_pending(request):
                self._prepare(request)

    def _is_pending(self, request: GenerateRequest) -> bool:
        return self._pending.get(request.request_id) is request  # another one may have its id by now

    def _prepare(self, request: GenerateRequest) -> None:
        result = self._result(request.request_id, lambda: self._process(request))
        if isinstance(result, Output) or result.pending_mask is None:
            self._pass_on(request, result)
        else:
            self._wait_for_grammar(request, result, result.pending_mask.grammar)

    def _wait_for_grammar(
        self, request: GenerateRequest, state: RequestState, grammar: Future[CompiledGrammar]
    ) -> None:
        with self._lock:
            if self._is_pending(request):
                self._grammars[request.request_id] = grammar

        def pass_on(grammar: Future[CompiledGrammar]) -> None:
            if not grammar.cancelled():
                self._pass_on(request, self._result(request.request_id, lambda: _with_mask(state)))

        grammar.add_done_callback(pass_on)

    def _pass_on(self, request: GenerateRequest, result: RequestState | Output) -> None:
        with self._lock:
            if self._is_pending(request):
                del self._pending[request.request_id]
                self._grammars.pop(request.request_id, None)
                self._inbox.put(result)

    def _result(self, request_id: str, make: Callable[[], RequestState]) -> RequestState | Output:
        """Return a request's state, or the output that ends it."""
        try:
            return make()
        except ErnieError as error:
            return Output(request_id, error=error.to_line())
        except Exception:
            logger.exception("request %s could not be prepared", request_id)
            failure = InternalError("the request could not be prepared; the engine's log says why")
            return Output(request_id, error=failure.to_line())


def _with_mask(state: RequestState) -> RequestState:
    state.start_mask()
    return state
