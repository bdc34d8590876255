"""The response streams of requests, and the threads that send them to Triton.

    engine supervisor --put()--> [pending Outputs] --send_pending()--> Triton
                                  they accumulate while a send blocks, and are joined

``put`` may be called from any thread and never blocks on Triton. ``send_pending`` runs only on the one sender
thread that the stream is bound to, so responses keep their order, and Triton's response sender is not used
after the final flag. The lock guards the fields marked ``# guarded`` and is never held during a call to Triton.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils

from ernie_stub.local_outputs import LocalFrontend
from ernie_stub.response_tensors import error_response, output_response
from ernie_wire.errors import ErnieError, InternalError, parse_error
from ernie_wire.messages import GenerateRequest, Output, join_outputs

NUM_SENDERS = 4

logger = logging.getLogger(__name__)
Work = Callable[[], None]


class ResponseStream:
    """The responses to one request.

    Args:
        request: as the client sent it.
        triton_sender: Triton's response sender of the request.
        schedule: queues work for the stream's sender thread; never blocks.
        on_abandoned: called with this stream when its client has disconnected.
        frontend: gets the outputs, after its next flush, and Triton only the end; None: Triton gets them.
    """

    def __init__(
        self,
        request: GenerateRequest,
        triton_sender: Any,  # noqa: ANN401 - Triton's own class
        schedule: Callable[[Callable[[], None]], None],
        on_abandoned: Callable[[ResponseStream], object],
        frontend: LocalFrontend | None = None,
    ) -> None:
        self.request_id = request.request_id
        self.frontend = frontend
        self._request = request.without_prompt()
        self._on_abandoned = on_abandoned
        self._schedule = schedule
        self._triton_sender = triton_sender  # the sender thread's; None after the final flag
        self._echo = "" if request.exclude_input_in_output else request.text_input or ""  # the sender thread's
        self._cumulative_logprob = 0.0  # the sender thread's
        self._lock = threading.Lock()
        self._pending: list[Output] = []  # guarded
        self._is_poll_due = False  # guarded
        self._is_scheduled = False  # guarded
        self._has_ended = False  # guarded

    def put(self, output: Output) -> None:
        """Add an output; after the last one, further ones are ignored."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = output.is_last
            is_delivered = self.frontend is not None and self.frontend.put(self.request_id, output)
            if not is_delivered:
                self._pending.append(output)
            if self._has_ended or (self._request.stream and not is_delivered):
                self._schedule_once()

    def fail(self, error: ErnieError) -> None:
        """End the stream with an error."""
        self.put(Output(self.request_id, error=error.to_line()))
        if self.frontend is not None:
            self.frontend.flush()

    def poll_cancellation(self) -> None:
        """Make the sender thread ask Triton whether the request is cancelled, and call ``on_abandoned``."""
        with self._lock:
            if not self._has_ended:
                self._is_poll_due = True
                self._schedule_once()

    def send_pending(self) -> None:
        """Send all pending outputs in one response, or poll for a cancellation (sender thread only)."""
        with self._lock:
            self._is_scheduled = False
            outputs: list[Output] = []
            if self._request.stream or self._has_ended:
                outputs, self._pending = self._pending, []
            is_poll_due, self._is_poll_due = self._is_poll_due, False
            has_ended = self._has_ended
        if self._triton_sender is None:
            return
        try:
            if outputs:
                self._send(join_outputs(outputs))
            elif has_ended:  # the frontend has the last output
                self._send_final(None)
            elif is_poll_due and self._triton_sender.is_cancelled():
                self._on_abandoned(self)
        except Exception:  # Triton raises TritonModelException as well as RuntimeError
            logger.exception("request %s: Triton refused a response; the request is cancelled", self.request_id)
            self._give_up()

    def _send(self, output: Output) -> None:
        if output.error is not None:
            if self._request.stream and output.text:  # joined with the error: the text goes first
                self._triton_sender.send(self._response(replace(output, error=None)))
            self._send_final(error_response(parse_error(output.error) or InternalError(output.error)))
        elif output.is_last:
            self._send_final(self._response(output))
        else:
            self._triton_sender.send(self._response(output))

    def _response(self, output: Output) -> Any:  # noqa: ANN401 - Triton's own class
        echo, self._echo = self._echo, ""
        self._cumulative_logprob += sum(entry.logprob for entry in output.logprobs or () if entry is not None)
        return output_response(output, self._request, echo, self._cumulative_logprob)

    def _send_final(self, response: Any) -> None:  # noqa: ANN401 - Triton's own class
        sender, self._triton_sender = self._triton_sender, None
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _give_up(self) -> None:
        with self._lock:
            self._has_ended = True
            self._pending = []
        self._triton_sender = None
        self._on_abandoned(self)

    def _schedule_once(self) -> None:
        """Make the sender thread run ``send_pending``; the caller holds the lock."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self.send_pending)


class Senders:
    """Sender threads: the only ones that send responses to Triton, each with a queue.

    A send blocks for a round trip to the server, so a few threads share the work. There is no lock: the queues
    are thread-safe, and only Triton's own thread calls ``bind`` and ``close``.
    """

    def __init__(self, num_senders: int = NUM_SENDERS) -> None:
        self._queues: list[queue.SimpleQueue[Work | None]] = [queue.SimpleQueue() for _ in range(num_senders)]
        self._next = itertools.cycle(self._queues)
        self._threads = [
            threading.Thread(target=_run, args=(work,), name=f"sender-{index}", daemon=True)
            for index, work in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    def bind(self) -> Callable[[Work], None]:
        """Return the ``schedule`` function of the next thread, in turn."""
        return next(self._next).put

    def close(self, timeout_s: float) -> None:
        """Finish the scheduled work and end the threads, within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        for work in self._queues:
            work.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("%s did not end within %g s", thread.name, timeout_s)


def _run(work: queue.SimpleQueue[Work | None]) -> None:
    while (job := work.get()) is not None:
        _do(job)


def _do(job: Work) -> None:
    try:
        job()
    except Exception:  # Triton's exceptions are not documented, and the thread serves other requests, too
        logger.exception("a response could not be sent")
