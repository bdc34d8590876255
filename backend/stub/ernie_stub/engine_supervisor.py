r"""The engine as the stub sees it: started, restarted after a crash, and its state told.

One thread supervises: it starts the process, reads its messages until the socket ends, tells the requests in
flight, and starts again. Its states:

    starting --Ready--> ready --end of the socket--> starting --> ...
        \--StartFailed or death--> failed --after a pause--> starting

The lock guards ``_health``, ``_description``, ``_heartbeat_at`` and ``_heard_at``; nothing is called while it
is held. This module must not know Triton, nor what a request asks for.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace

from ernie_stub.engine_process import EngineCommand, EngineProcess, EngineStartError, ready_notice
from ernie_stub.in_flight import InFlight
from ernie_wire.channel import Channel
from ernie_wire.errors import EngineCrashed, InternalError, InvalidValue, ModelUnavailable
from ernie_wire.frames import FrameError, FrameTooLarge
from ernie_wire.messages import (
    ALIVE_S,
    CODEC,
    Alive,
    Fault,
    GenerateRequest,
    Heartbeat,
    Message,
    Output,
    Outputs,
    Ready,
    Shutdown,
    StartFailed,
    Starting,
)
from ernie_wire.status import Description, Health

TICK_S = 0.1  # how often a waiting supervisor looks around

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deadlines:
    """How long the supervisor waits for what.

    Attributes:
        start_stall_s: a starting engine that uses no CPU and reads no page for so long is given up.
        silence_s: a ready engine without a heartbeat for so long hangs and is aborted; it must exceed the
            longest step, since heartbeats come between steps.
        stopped_s: so is one that sends nothing at all for so long: it was stopped.
        exit_s: between the end of the socket, SIGTERM and SIGKILL.
        settled_s: an engine that lived so long has not failed at once: the pause starts from nothing again.
        longest_pause_s: longest pause between two starts; the first restart has none.
    """

    start_stall_s: float = 120.0
    silence_s: float = 300.0
    stopped_s: float = 8.0
    exit_s: float = 5.0
    settled_s: float = 60.0
    longest_pause_s: float = 30.0


@dataclass(frozen=True)
class _Fault:
    """Why an engine ends, in words; whether it does not do so by itself."""

    cause: str
    hangs: bool = False


@dataclass
class _FirstStart:
    """The outcome of the first start, which ``EngineSupervisor.start`` waits for."""

    is_decided: threading.Event = field(default_factory=threading.Event)
    error: InternalError | None = None


class EngineSupervisor:
    """Keeps one engine process running for the requests in flight."""

    def __init__(self, command: EngineCommand, in_flight: InFlight, deadlines: Deadlines | None = None) -> None:
        self._command = command
        self._in_flight = in_flight
        self._deadlines = deadlines or Deadlines()
        self._first_start = _FirstStart()
        self._stopping = threading.Event()
        self._process: EngineProcess | None = None
        self._link: Channel[Message] | None = None
        self._lock = threading.Lock()
        self._health = Health(state="starting", detail="the engine is starting")
        self._description: Description | None = None
        self._heartbeat_at = self._heard_at = 0.0
        self._supervisor = threading.Thread(target=self._supervise, name="engine-supervisor", daemon=True)

    def start(self) -> None:
        """Start the engine and wait until it is ready.

        Raises:
            EngineStartError: it did not become ready; nothing is left running.
            EngineCrashed: nor did it say why.
        """
        self._supervisor.start()
        self._first_start.is_decided.wait()
        if self._first_start.error is not None:
            self._supervisor.join()
            raise self._first_start.error

    def status(self) -> tuple[Health, Description | None]:
        """Return what its messages tell of the engine, and what it says of itself if it is ready."""
        with self._lock:
            health, description = self._health, self._description
            heartbeat_at, heard_at = self._heartbeat_at, self._heard_at
        if description is None:
            return health, None
        now = time.monotonic()
        return replace(health, heartbeat_age_s=now - heartbeat_at, alive_age_s=now - heard_at), description

    def stop(self) -> None:
        """End every request with an error and the engine process; nothing is left running."""
        self._stopping.set()
        self._in_flight.close(ModelUnavailable("the server is shutting down"))
        link, process = self._link, self._process
        if link is not None and process is not None:
            link.send(Shutdown())
            link.finish()
            process.end(self._deadlines.exit_s)
        self._supervisor.join()

    def _supervise(self) -> None:
        quick_failures = 0
        while not self._stopping.is_set():
            started_at = time.monotonic()
            try:
                self._run_engine()
            except InternalError as error:
                self._note_start_failure(error)
            except Exception as error:  # without its supervisor the entry would be lost for ever
                logger.exception("the engine's supervisor failed")
                self._note_start_failure(InternalError(f"{type(error).__name__}: {error}"))
            if not self._first_start.is_decided.is_set():
                self._first_start.is_decided.set()
                return
            has_settled = time.monotonic() - started_at >= self._deadlines.settled_s
            quick_failures = 0 if has_settled else quick_failures + 1
            self._pause(quick_failures)

    def _note_start_failure(self, error: InternalError) -> None:
        logger.error("the engine did not start: %s", error.message)
        if not self._first_start.is_decided.is_set():
            self._first_start.error = error
        elif not self._stopping.is_set():
            detail = f"the engine did not start again: {error.message}"
            self._set_status("failed", detail)
            self._in_flight.refuse(ModelUnavailable(detail))

    def _pause(self, quick_failures: int) -> None:
        """Wait before the next start: not after the first quick failure, then 1, 2, 4 ... seconds."""
        pause_s = (
            min(2.0 ** (quick_failures - 2), self._deadlines.longest_pause_s) if quick_failures > 1 else 0.0
        )
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not self._stopping.wait(TICK_S):
            self._in_flight.expire()

    def _run_engine(self) -> None:
        """Start an engine, serve with it, and return when it has ended and is gone.

        Raises:
            EngineStartError, EngineCrashed: it did not become ready.
        """
        process = EngineProcess(self._command)
        process.socket.settimeout(self._deadlines.silence_s)
        link = Channel(process.socket, CODEC, "the engine", has_writer=True, instead=self._refuse)
        self._process, self._link = process, link
        try:
            self._await_ready(process, link)
            self._serve(process, link)
        finally:
            link.close()
            process.end(self._deadlines.exit_s)
            self._process = self._link = None

    def _await_ready(self, process: EngineProcess, link: Channel[Message]) -> None:
        self._set_status("starting", "the engine is starting")
        self._in_flight.hold()
        progress, progress_at = process.progress(), time.monotonic()
        while not self._stopping.is_set():
            self._in_flight.expire()
            if link.is_readable(TICK_S):
                message = _receive(link)
                if isinstance(message, Ready):
                    self._become_ready(message, process, link)
                    return
                if isinstance(message, StartFailed):
                    raise EngineStartError(message.error, exit_signal=message.exit_signal)
                if isinstance(message, Fault):
                    raise EngineStartError(message.cause, exit_signal=message.exit_signal)
                if isinstance(message, Starting):
                    progress_at = time.monotonic()
                if message is None:
                    end = process.end(self._deadlines.exit_s)
                    raise EngineCrashed(
                        f"the engine process ended before it was ready: it {end.words}", exit_signal=end.signal
                    )
            if (now_progress := process.progress()) != progress:
                progress, progress_at = now_progress, time.monotonic()
            elif time.monotonic() - progress_at > self._deadlines.start_stall_s:
                raise EngineStartError(
                    f"the engine made no progress for {self._deadlines.start_stall_s:g} s while starting"
                )
        raise EngineStartError("the server is shutting down")

    def _become_ready(self, ready: Ready, process: EngineProcess, link: Channel[Message]) -> None:
        with self._lock:
            self._description = ready.description
            num_blocks, generation = ready.description.kv_blocks, self._health.generation + 1
            self._health = Health(
                free_blocks=num_blocks, total_blocks=num_blocks, state="ready", generation=generation
            )
            self._heartbeat_at = self._heard_at = time.monotonic()
        self._in_flight.connect(link)
        self._first_start.is_decided.set()
        logger.info("%s (generation %d)", ready_notice(process.pid), generation)

    def _serve(self, process: EngineProcess, link: Channel[Message]) -> None:
        """Pass on what the engine sends until it ends, then end what it leaves unfinished."""
        fault = self._read_until_end(process, link)
        if fault is not None and fault.hangs:
            process.abort()
        self._set_status("starting", "the engine ended and is being restarted")
        lost = self._in_flight.hold()
        end = process.end(self._deadlines.exit_s)
        cause = f"it {end.words}" if fault is None else fault.cause
        if not self._stopping.is_set():
            logger.error("the engine ended: %s; %d requests are lost", cause, len(lost))
        for answer in lost:
            answer.fail(EngineCrashed(f"the engine process ended: {cause}; retry the request"))

    def _read_until_end(self, process: EngineProcess, link: Channel[Message]) -> _Fault | None:
        """Return what was wrong with the engine, as far as it is known before it is gone."""
        silent_s = 0.0  # by the engine's clock: if it was we who slept, its messages are all there
        try:
            while silent_s <= self._deadlines.silence_s and (message := self._hear(process, link)) is not None:
                if isinstance(message, Outputs):
                    self._in_flight.deliver(message.outputs)
                elif isinstance(message, Heartbeat):
                    silent_s = 0.0
                    with self._lock:
                        self._health = replace(self._health, **vars(message))
                        self._heartbeat_at = time.monotonic()
                elif isinstance(message, Alive):
                    silent_s += ALIVE_S
                elif isinstance(message, Fault):
                    return _Fault(message.cause)
        except TimeoutError:
            return _Fault(f"it was silent for {self._deadlines.stopped_s:g} s and was aborted", hangs=True)
        except FrameError as error:
            return _Fault(f"it sent something unreadable ({error}) and was aborted", hangs=True)
        if silent_s > self._deadlines.silence_s:
            return _Fault(f"its loop hung for {self._deadlines.silence_s:g} s and was aborted", hangs=True)
        return None

    def _hear(self, process: EngineProcess, link: Channel[Message]) -> Message | None:
        """Receive; raises what ``Channel.receive`` does, TimeoutError after ``stopped_s``."""
        ticks = round(self._deadlines.stopped_s / TICK_S)  # a pause of this process is but one of them
        while not link.is_readable(TICK_S):
            process.note_stop()
            if (ticks := ticks - 1) <= 0:
                raise TimeoutError
        message = link.receive()
        with self._lock:
            self._heard_at = time.monotonic()
        return message

    def _refuse(self, message: Message, error: FrameTooLarge) -> tuple[()]:
        """Answer a request that no frame holds; the engine gets nothing in its place."""
        if not isinstance(message, GenerateRequest):
            raise error
        refusal = InvalidValue(f"the request is too large for the engine: {error}")
        self._in_flight.deliver((Output(message.request_id, error=refusal.to_line()),))
        return ()

    def _set_status(self, state: str, detail: str) -> None:
        with self._lock:
            self._description = None
            self._health = Health(state=state, detail=detail, generation=self._health.generation)


def _receive(link: Channel[Message]) -> Message | None:
    """Receive while starting: an engine that sends nonsense or nothing more did not start."""
    try:
        return link.receive()
    except (FrameError, TimeoutError) as error:
        raise EngineStartError(f"the engine process sent something unreadable: {error}") from error
