r"""Supervision of the engine process: start, restart after a crash, and its state.

One thread, the supervisor, starts the process, reads its messages until the socket ends, fails the requests in
flight, and starts again. Its states:

    starting --Ready--> ready --end of the socket--> starting --> ...
        \--StartFailed or death--> failed --after a pause--> starting

The lock guards ``_health``, ``_description``, ``_heartbeat_at`` and ``_heard_at``, and is held for assignments
only.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace

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

TICK_S = 0.1  # how often a waiting supervisor checks its other conditions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deadlines:
    """The time limits of the supervisor.

    Attributes:
        start_stall_s: a starting engine that uses no CPU and reads no page for this long has failed.
        silence_s: a ready engine without a heartbeat for this long hangs and is aborted. Heartbeats come
            between steps, so it must exceed the longest step.
        stopped_s: an engine without any message for this long was stopped, and is aborted.
        exit_s: between the end of the socket, SIGTERM and SIGKILL.
        settled_s: an engine that ran for this long resets the pause between starts.
        longest_pause_s: longest pause between two starts; the first restart has no pause.
    """

    start_stall_s: float = 120.0
    silence_s: float = 300.0
    stopped_s: float = 8.0
    exit_s: float = 5.0
    settled_s: float = 60.0
    longest_pause_s: float = 30.0


@dataclass(frozen=True)
class _Fault:
    """Why an engine ends, and whether it hangs, and so must be ended."""

    cause: str
    hangs: bool = False


class EngineSupervisor:
    """Keeps one engine process running for the requests in flight."""

    def __init__(self, command: EngineCommand, in_flight: InFlight, deadlines: Deadlines | None = None) -> None:
        self._command = command
        self._in_flight = in_flight
        self._deadlines = deadlines or Deadlines()
        self._first_start: Future[None] = Future()
        self._stopping = threading.Event()
        self._process: EngineProcess | None = None
        self._channel: Channel[Message] | None = None
        self._lock = threading.Lock()
        self._health = Health(state="starting", detail="the engine is starting")
        self._description: Description | None = None
        self._heartbeat_at = self._heard_at = 0.0
        self._supervisor = threading.Thread(target=self._supervise, name="engine-supervisor", daemon=True)

    def start(self) -> None:
        """Start the engine and wait until it is ready.

        Raises:
            EngineStartError: the engine did not become ready; no process is left.
            EngineCrashed: the same, without a reason from the engine.
        """
        self._supervisor.start()
        try:
            self._first_start.result()
        except InternalError:
            self._supervisor.join()
            raise

    def status(self) -> tuple[Health, Description | None]:
        """Return the engine's health, by its messages, and its description if it is ready."""
        with self._lock:
            health, description = self._health, self._description
            heartbeat_at, heard_at = self._heartbeat_at, self._heard_at
        if description is None:
            return health, None
        now = time.monotonic()
        return replace(health, heartbeat_age_s=now - heartbeat_at, alive_age_s=now - heard_at), description

    def stop(self) -> None:
        """Fail every request, and end the engine process."""
        self._stopping.set()
        self._in_flight.close(ModelUnavailable("the server is shutting down"))
        channel, process = self._channel, self._process
        if channel is not None and process is not None:
            channel.send(Shutdown())
            channel.finish()
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
            except Exception as error:  # without its supervisor the entry could never recover
                logger.exception("the engine's supervisor failed")
                self._note_start_failure(InternalError(f"{type(error).__name__}: {error}"))
            has_settled = time.monotonic() - started_at >= self._deadlines.settled_s
            quick_failures = 0 if has_settled else quick_failures + 1
            self._pause(quick_failures)

    def _note_start_failure(self, error: InternalError) -> None:
        logger.error("the engine did not start: %s", error.message)
        if not self._first_start.done():
            self._stopping.set()  # Triton does not load the model, so there is nothing to restart for
            self._first_start.set_exception(error)
        elif not self._stopping.is_set():
            detail = f"the engine did not start again: {error.message}"
            self._set_status("failed", detail)
            self._in_flight.refuse(ModelUnavailable(detail))

    def _pause(self, quick_failures: int) -> None:
        """Wait before the next start: 0 s after the first quick failure, then 1, 2, 4 ... seconds."""
        pause_s = (
            min(2.0 ** (quick_failures - 2), self._deadlines.longest_pause_s) if quick_failures > 1 else 0.0
        )
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not self._stopping.wait(TICK_S):
            self._in_flight.expire()

    def _run_engine(self) -> None:
        """Start an engine, serve with it, and return after its end.

        Raises:
            EngineStartError, EngineCrashed: the engine did not become ready.
        """
        process = EngineProcess(self._command)
        process.socket.settimeout(self._deadlines.silence_s)
        channel = Channel(process.socket, CODEC, "the engine", has_writer=True, instead=self._refuse)
        self._process, self._channel = process, channel
        try:
            self._await_ready(process, channel)
            self._serve(process, channel)
        finally:
            channel.close()
            process.end(self._deadlines.exit_s)
            self._process = self._channel = None

    def _await_ready(self, process: EngineProcess, channel: Channel[Message]) -> None:
        self._set_status("starting", "the engine is starting")
        self._in_flight.hold()
        progress, progress_at = process.progress(), time.monotonic()
        while not self._stopping.is_set():
            self._in_flight.expire()
            if channel.is_readable(TICK_S):
                message = _receive(channel)
                if isinstance(message, Ready):
                    self._become_ready(message, process, channel)
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

    def _become_ready(self, ready: Ready, process: EngineProcess, channel: Channel[Message]) -> None:
        with self._lock:
            self._description = ready.description
            num_blocks, generation = ready.description.kv_blocks, self._health.generation + 1
            self._health = Health(
                free_blocks=num_blocks, total_blocks=num_blocks, state="ready", generation=generation
            )
            self._heartbeat_at = self._heard_at = time.monotonic()
        self._in_flight.connect(channel)
        if not self._first_start.done():
            self._first_start.set_result(None)
        logger.info("%s (generation %d)", ready_notice(process.pid), generation)

    def _serve(self, process: EngineProcess, channel: Channel[Message]) -> None:
        """Deliver the engine's outputs until it ends, then fail the requests that it left unfinished."""
        fault = self._read_until_end(process, channel)
        if fault is not None and fault.hangs:
            process.abort()
        self._set_status("starting", "the engine ended and is being restarted")
        # From here on new requests wait for the next engine; those that this one had are lost.
        lost = self._in_flight.hold()
        end = process.end(self._deadlines.exit_s)
        cause = f"it {end.words}" if fault is None else fault.cause
        if not self._stopping.is_set():
            logger.error("the engine ended: %s; %d requests are lost", cause, len(lost))
        for stream in lost:
            stream.fail(EngineCrashed(f"the engine process ended: {cause}; retry the request"))

    def _read_until_end(self, process: EngineProcess, channel: Channel[Message]) -> _Fault | None:
        """Return the engine's fault, or None if the socket ended without a known one."""
        # Time without a heartbeat is counted by the engine's Alive messages, not by our clock: if this process
        # was suspended, the heartbeats of that time are still in the socket.
        silent_s = 0.0
        try:
            while silent_s <= self._deadlines.silence_s:
                message = self._hear(process, channel)
                if message is None:
                    return None
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
        return _Fault(f"its loop hung for {self._deadlines.silence_s:g} s and was aborted", hangs=True)

    def _hear(self, process: EngineProcess, channel: Channel[Message]) -> Message | None:
        """Receive; raise as ``Channel.receive``, and TimeoutError after ``stopped_s``."""
        ticks = round(
            self._deadlines.stopped_s / TICK_S
        )  # counted in ticks: a suspension of this process is one tick
        while not channel.is_readable(TICK_S):
            process.note_stop()
            if (ticks := ticks - 1) <= 0:
                raise TimeoutError
        message = channel.receive()
        with self._lock:
            self._heard_at = time.monotonic()
        return message

    def _refuse(self, message: Message, error: FrameTooLarge) -> tuple[()]:
        """Fail a request that is too large for a frame; the engine gets no message instead."""
        if not isinstance(message, GenerateRequest):
            raise error
        refusal = InvalidValue(f"the request is too large for the engine: {error}")
        self._in_flight.deliver((Output(message.request_id, error=refusal.to_line()),))
        return ()

    def _set_status(self, state: str, detail: str) -> None:
        with self._lock:
            self._description = None
            self._health = Health(state=state, detail=detail, generation=self._health.generation)


def _receive(channel: Channel[Message]) -> Message | None:
    """Receive during the start, which fails on invalid messages and timeouts."""
    try:
        return channel.receive()
    except (FrameError, TimeoutError) as error:
        raise EngineStartError(f"the engine process sent something unreadable: {error}") from error
