"""The class that Triton calls, which connects the parts of the stub.

Triton calls initialize, execute and finalize from one thread. ``execute`` reads requests and enqueues them; all
responses, also errors, are sent by the sender threads: an exception in ``execute`` would end all requests of a
batch without a reason.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from ernie_stub.control import answer_control
from ernie_stub.engine_process import EngineCommand
from ernie_stub.engine_supervisor import EngineSupervisor
from ernie_stub.entry import Entry, EntryError
from ernie_stub.in_flight import InFlight
from ernie_stub.local_outputs import LocalOutputs
from ernie_stub.request_tensors import read_request
from ernie_stub.response_stream import ResponseStream, Senders
from ernie_stub.response_tensors import control_response, error_response
from ernie_wire.errors import ErnieError, InternalError, ModelUnavailable
from ernie_wire.messages import GenerateRequest
from ernie_wire.status import Control, Health

DRAIN_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.01
REQUEST_POLL_INTERVAL_S = 0.1

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """One model entry in Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine of the entry, or serve it as unconfigured if it has no weights.

        Raises:
            TritonModelException: the engine could not start; the message is one line.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        try:
            entry = Entry.from_triton(args)
            self._in_flight = InFlight()
            self._engine = self._start_engine(entry)
        except EntryError as error:
            raise pb_utils.TritonModelException(" ".join(str(error).split())) from None
        except InternalError as error:
            raise pb_utils.TritonModelException(" ".join(error.to_line().split())) from None
        self._senders = Senders()
        self._local_outputs = LocalOutputs(self._in_flight.abandon_all)
        self._cancellation_poll = CancellationPoll(self._in_flight)

    def execute(self, requests: list[Any]) -> None:
        """Read the requests and enqueue them; never blocks on the engine or a client."""
        for request in requests:
            triton_sender = request.get_response_sender()
            try:
                call = read_request(request)
                if isinstance(call, Control):
                    self._control(call, triton_sender)
                else:
                    self._generate(call, triton_sender)
            except ErnieError as error:
                self._reply(triton_sender, error_response(error))
            except Exception as error:
                logger.exception("a request could not be read")
                self._reply(
                    triton_sender, error_response(InternalError(f"the request could not be read: {error}"))
                )

    def finalize(self) -> None:
        """Fail the requests in flight, and end the engine process."""
        self._cancellation_poll.stop()
        if self._engine is not None:
            self._engine.stop()
        self._senders.close(DRAIN_TIMEOUT_S)
        self._local_outputs.close()

    def _start_engine(self, entry: Entry) -> EngineSupervisor | None:
        weights = entry.weights()
        if weights is None:
            missing = entry.missing_weights()
            logger.warning("unconfigured: %s", missing)
            self._in_flight.refuse(ModelUnavailable(missing))
            self._unconfigured = Health(state="unconfigured", detail=missing)
            return None
        engine = EngineSupervisor(
            EngineCommand(entry.engine_python, entry.engine_settings(weights)), self._in_flight
        )
        engine.start()
        return engine

    def _generate(self, request: GenerateRequest, triton_sender: Any) -> None:  # noqa: ANN401 - Triton's class
        frontend = self._local_outputs.frontend(request.deliver_to)
        stream = ResponseStream(request, triton_sender, self._senders.bind(), self._in_flight.abandon, frontend)
        self._in_flight.submit(request, stream)

    def _control(self, control: Control, triton_sender: Any) -> None:  # noqa: ANN401 - Triton's class
        health, engine = (self._unconfigured, None) if self._engine is None else self._engine.status()
        address = self._local_outputs.address
        answer = answer_control(control, health, engine, self._in_flight, address)
        self._reply(triton_sender, control_response(answer))

    def _reply(self, triton_sender: Any, response: Any) -> None:  # noqa: ANN401 - Triton's classes
        """Make a sender thread send the only response to a request."""
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._senders.bind()(lambda: triton_sender.send(response, flags=final))


class CancellationPoll:
    """A thread that polls Triton for cancelled requests: some clients go without sending ``control`` cancel.

    A poll is a round trip through Triton's one monitor thread, so the rate is limited: of each request to one
    every ``REQUEST_POLL_INTERVAL_S``, of all together to one every ``POLL_INTERVAL_S``. The sender thread of
    the request's stream makes the call.
    """

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancellation-poll", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = REQUEST_POLL_INTERVAL_S
        while not self._stopping.wait(pause_s):
            stream = self._in_flight.next_to_poll(REQUEST_POLL_INTERVAL_S)
            if stream is not None:
                stream.poll_cancellation()
            pause_s = POLL_INTERVAL_S if stream is not None else REQUEST_POLL_INTERVAL_S / 2
