"""The answer to one request on its way out: outputs that wait for their sender thread.

    engine reader --put()--> [pending Output] --send_pending()--> Triton
                              merged while a send blocks

``put`` may be called from any thread and never blocks on Triton. ``send_pending`` is only ever run by the one
sender thread that the answer is bound to, so that responses keep their order and nothing is asked of
Triton's response sender once the final flag is sent. The lock guards the fields under ``# guarded`` and is
never held during a call to Triton.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils

from ernie_stub.request_tensors import ResponseOptions
from ernie_stub.response_tensors import error_response, output_response
from ernie_wire.errors import ErnieError, parse_error
from ernie_wire.logprobs import Logprobs
from ernie_wire.marked_text import joined
from ernie_wire.messages import Output

logger = logging.getLogger(__name__)


def merge(earlier: Output, later: Output) -> Output:
    """Return two outputs of one request as one: what each step made joined, the end taken from the later."""
    text = joined((earlier, later))
    return replace(
        later,
        text=text.text,
        marks=text.marks,
        token_ids=earlier.token_ids + later.token_ids,
        num_input_tokens=later.num_input_tokens or earlier.num_input_tokens,
        num_cached_tokens=later.num_cached_tokens or earlier.num_cached_tokens,
        prompt_ids=earlier.prompt_ids if earlier.prompt_ids is not None else later.prompt_ids,
        prompt_text=earlier.prompt_text if earlier.prompt_text is not None else later.prompt_text,
        logprobs=_joined_logprobs(earlier.logprobs, later.logprobs),
        prompt_logprobs=earlier.prompt_logprobs
        if earlier.prompt_logprobs is not None
        else later.prompt_logprobs,
    )


def _joined_logprobs(earlier: Logprobs | None, later: Logprobs | None) -> Logprobs | None:
    return None if earlier is None and later is None else (earlier or ()) + (later or ())


class Answer:
    """The answer to one request.

    Args:
        request_id: whose answer it is.
        options: the form of the responses.
        triton_sender: Triton's response sender of the request.
        schedule: puts work into the queue of the answer's sender thread; never blocks.
        on_abandoned: told of this answer when its client has gone.
    """

    def __init__(
        self,
        request_id: str,
        options: ResponseOptions,
        triton_sender: Any,  # noqa: ANN401 - Triton's own class
        schedule: Callable[[Callable[[], None]], None],
        on_abandoned: Callable[[Answer], object],
    ) -> None:
        self.request_id = request_id
        self._on_abandoned = on_abandoned
        self._options = options
        self._schedule = schedule
        self._triton_sender = triton_sender  # the sender thread's; None after the final flag
        self._echo = options.echo  # the sender thread's
        self._cumulative_logprob = 0.0  # the sender thread's
        self._lock = threading.Lock()
        self._pending: Output | None = None  # guarded
        self._is_poll_wanted = False  # guarded
        self._is_scheduled = False  # guarded
        self._has_ended = False  # guarded

    def put(self, output: Output) -> None:
        """Take a new output; after the last one, further ones are ignored."""
        with self._lock:
            if self._has_ended:
                return
            self._pending = merge(self._pending, output) if self._pending else output
            self._has_ended = output.is_last
            if self._options.stream or self._has_ended:
                self._schedule_once()

    def fail(self, error: ErnieError) -> None:
        """End the answer with an error."""
        self.put(Output(self.request_id, error=error.to_line()))

    def poll_cancellation(self) -> None:
        """Have the sender thread ask Triton whether the client has gone; if so it calls ``on_abandoned``."""
        with self._lock:
            if not self._has_ended:
                self._is_poll_wanted = True
                self._schedule_once()

    def send_pending(self) -> None:
        """Send what has gathered, in one response, or ask Triton for a cancellation (sender thread only)."""
        with self._lock:
            self._is_scheduled = False
            is_due = self._options.stream or self._has_ended
            output, self._pending = (self._pending, None) if is_due else (None, self._pending)
            is_poll_wanted, self._is_poll_wanted = self._is_poll_wanted, False
        if self._triton_sender is None:
            return
        try:
            if output is not None:
                self._send(output)
            elif is_poll_wanted and self._triton_sender.is_cancelled():
                self._on_abandoned(self)
        except Exception:  # Triton raises its own TritonModelException and RuntimeError alike
            logger.exception("request %s: Triton refused a response; the request is given up", self.request_id)
            self._give_up()

    def _send(self, output: Output) -> None:
        if output.error is not None:
            if self._options.stream and output.text:
                self._triton_sender.send(self._response(replace(output, error=None)))
            self._send_final(error_response(parse_error(output.error)))
        elif output.is_last:
            self._send_final(self._response(output))
        else:
            self._triton_sender.send(self._response(output))

    def _response(self, output: Output) -> Any:  # noqa: ANN401 - Triton's own class
        echo, self._echo = self._echo, ""
        self._cumulative_logprob += sum(entry.logprob for entry in output.logprobs or () if entry is not None)
        return output_response(output, self._options, echo, self._cumulative_logprob)

    def _send_final(self, response: Any) -> None:  # noqa: ANN401 - Triton's own class
        sender, self._triton_sender = self._triton_sender, None
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _give_up(self) -> None:
        with self._lock:
            self._has_ended = True
            self._pending = None
        self._triton_sender = None
        self._on_abandoned(self)

    def _schedule_once(self) -> None:
        """Have the sender thread run ``send_pending``; the lock is held by the caller."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self.send_pending)
