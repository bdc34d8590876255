"""The stub's side of the engine process, against a scripted process that speaks real frames."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ernie_stub import engine_supervisor
from ernie_stub.control import STOPPED_S, answer_control
from ernie_stub.engine_process import EngineCommand, EngineProcess, EngineStartError
from ernie_stub.engine_supervisor import Deadlines, EngineSupervisor
from ernie_stub.entry import Entry
from ernie_stub.in_flight import InFlight
from ernie_stub.response_stream import ResponseStream, Senders
from ernie_wire.channel import Channel
from ernie_wire.errors import EngineCrashed, InternalError, InvalidValue, ModelUnavailable
from ernie_wire.messages import GenerateRequest, Message
from ernie_wire.processes import Exit
from ernie_wire.status import Control, answer_text
from fakes import triton_python_backend_utils as fake_utils
from support.waiting import eventually, has_ended

FAKE_ENGINE = (str(Path(__file__).parents[2] / "fakes" / "fake_engine.py"),)
WAIT_S = 60.0


class Stub:
    """An engine, its table of requests and senders, as triton_model wires them."""

    def __init__(self, settings: dict[str, str], in_flight: InFlight, deadlines: Deadlines) -> None:
        self.in_flight = in_flight
        self.engine = EngineSupervisor(
            EngineCommand(sys.executable, settings, FAKE_ENGINE), in_flight, deadlines
        )
        self._senders = Senders(2)

    def submit(self, request_id: str, prompt: str, *, stream: bool = False) -> fake_utils.ResponseSender:
        return self.submit_request(
            GenerateRequest(request_id, prompt, stream=stream, exclude_input_in_output=True)
        )

    def submit_request(self, request: GenerateRequest) -> fake_utils.ResponseSender:
        sender = fake_utils.ResponseSender()
        answer = ResponseStream(request, sender, self._senders.bind(), self.in_flight.abandon)
        self.in_flight.submit(request, answer)
        return sender

    def control(self, op: str, **fields: str) -> dict[str, Any]:
        answer = answer_control(Control(op, **fields), *self.engine.status(), self.in_flight)
        told: dict[str, Any] = json.loads(answer_text(answer))
        return told

    def pid(self) -> int:
        pid = int(Path(self.control("describe")["engine"]["root"]).name)
        return pid

    def close(self) -> None:
        self.engine.stop()
        self._senders.close(WAIT_S)


Start = Callable[..., Stub]


@pytest.fixture
def start() -> Iterator[Start]:
    stubs: list[Stub] = []

    def started(
        settings: dict[str, str] | None = None,
        in_flight: InFlight | None = None,
        deadlines: Deadlines | None = None,
    ) -> Stub:
        stub = Stub(settings or {}, in_flight or InFlight(), deadlines or Deadlines())
        stub.engine.start()
        stubs.append(stub)
        return stub

    yield started
    for stub in stubs:
        stub.close()


def test_without_stream_there_is_exactly_one_response(start: Start) -> None:
    sender = start().submit("a", "count 5")
    assert sender.finished.wait(WAIT_S)
    assert sender.texts() == ["1 2 3 4 5 "]


def test_a_stream_gives_the_same_text_in_order(start: Start) -> None:
    stub = start()
    senders = [stub.submit(f"r{index}", "count 300", stream=True) for index in range(8)]
    for sender in senders:
        assert sender.finished.wait(WAIT_S)
        assert "".join(sender.texts()) == "".join(f"{number} " for number in range(1, 301))


def test_describe_and_health_tell_what_the_engine_said(start: Start) -> None:
    stub = start()
    assert stub.control("health")["total_blocks"] == 100  # before the first heartbeat too
    eventually(lambda: stub.control("health")["steps"] > 1)
    describe, health = stub.control("describe"), stub.control("health")
    assert (describe["state"], describe["generation"]) == ("ready", 1)
    assert describe["engine"]["architecture"] == "Fake"
    assert (health["ready"], health["free_blocks"], health["total_blocks"]) == (True, 100, 100)


def test_cancel_reaches_the_engine_and_ends_the_answer(start: Start) -> None:
    stub = start()
    sender = stub.submit("a", "wait", stream=True)
    eventually(lambda: stub.control("health")["running"] == 1)
    assert stub.control("cancel", request_id="a") == {"cancelled": True}
    assert sender.error_line().startswith("cancelled: ")
    eventually(lambda: stub.control("health")["running"] == 0)
    assert stub.control("cancel", request_id="a") == {"cancelled": False}


def test_an_id_is_free_again_after_a_cancel_but_not_before(start: Start) -> None:
    stub = start()
    stub.submit("a", "wait", stream=True)
    with pytest.raises(InvalidValue, match="in flight"):
        stub.submit("a", "count 1")
    stub.control("cancel", request_id="a")
    sender = stub.submit("a", "count 2")
    assert sender.finished.wait(WAIT_S)
    assert sender.texts() == ["1 2 "]


@pytest.mark.parametrize(
    ("prompt", "cause"),
    [
        ("die", "memory"),
        ("exit", "status 3"),
        ("fault", "rank 1 is lost"),
        ("garbage", "unreadable"),
    ],
)
def test_a_crash_ends_what_is_in_flight_and_the_next_request_is_served(
    start: Start, prompt: str, cause: str
) -> None:
    stub = start()
    pid = stub.pid()
    bystander = stub.submit("a", "wait", stream=True)
    culprit = stub.submit("b", prompt)
    for sender in (bystander, culprit):
        assert sender.error_line().startswith("engine_crashed: ")
        assert cause in sender.error_line()
    after = stub.submit("c", "count 2")
    assert after.finished.wait(WAIT_S)
    assert after.texts() == ["1 2 "]
    assert stub.control("describe")["generation"] == 2
    assert has_ended(pid)


@pytest.mark.parametrize(
    ("prompt", "deadlines", "cause"),
    [
        ("hang", Deadlines(stopped_s=1.0), "silent"),
        ("stop", Deadlines(stopped_s=1.0, exit_s=WAIT_S), "silent"),
        ("stuck", Deadlines(silence_s=1.0), "hung"),
    ],
)
def test_an_engine_that_hangs_is_aborted_and_replaced(
    start: Start, prompt: str, deadlines: Deadlines, cause: str
) -> None:
    stub = start(deadlines=deadlines)
    pid = stub.pid()
    sender = stub.submit("a", prompt)
    assert cause in sender.error_line()
    assert has_ended(pid)
    after = stub.submit("b", "count 1")
    assert after.finished.wait(WAIT_S)
    assert after.texts() == ["1 "]


def test_a_stopped_engine_is_not_ready_long_before_it_is_given_up(start: Start) -> None:
    stub = start(deadlines=Deadlines(stopped_s=WAIT_S))
    os.kill(stub.pid(), signal.SIGSTOP)
    eventually(lambda: not stub.control("health")["ready"])
    assert "sign of life" in stub.control("health")["detail"]
    os.kill(stub.pid(), signal.SIGCONT)
    eventually(lambda: stub.control("health")["ready"])


def test_an_engine_that_is_killed_because_it_was_stopped_is_not_said_to_lack_memory(start: Start) -> None:
    stub = start(deadlines=Deadlines(stopped_s=WAIT_S))
    sender = stub.submit("a", "stuck")
    os.kill(stub.pid(), signal.SIGSTOP)
    eventually(lambda: not stub.control("health")["ready"])
    os.kill(stub.pid(), signal.SIGKILL)
    assert "stopped" in sender.error_line()


def test_an_engine_that_is_killed_while_it_runs_may_lack_memory(start: Start) -> None:
    stub = start()
    sender = stub.submit("a", "stuck")
    os.kill(stub.pid(), signal.SIGSTOP)
    os.kill(stub.pid(), signal.SIGCONT)
    os.kill(stub.pid(), signal.SIGKILL)
    assert "memory" in sender.error_line()


def test_a_long_step_delays_no_sign_of_life(start: Start) -> None:
    stub = start()
    stub.submit("a", "stuck")
    eventually(lambda: stub.control("health")["heartbeat_age_s"] > STOPPED_S + 1)
    assert stub.control("health")["ready"]


def test_many_messages_to_an_engine_that_hangs_do_not_block(start: Start) -> None:
    stub = start(deadlines=Deadlines(stopped_s=WAIT_S, exit_s=0.2))
    stub.submit("a", "hang")
    for index in range(20):
        stub.submit(f"r{index}", "count 1" + "x" * 100_000)
    assert stub.control("describe")["generation"] == 1, "only its end would have let them go on"


def test_crash_after_crash_is_survived(start: Start) -> None:
    stub = start()
    for number in range(3):
        assert "SIGKILL" in stub.submit(f"r{number}", "die").error_line()
    assert stub.submit("last", "count 1").finished.wait(WAIT_S)
    assert stub.control("describe")["generation"] == 4


def test_an_engine_that_does_not_start_again_is_told(start: Start, tmp_path: Path) -> None:
    stub = start({"start": "die-after-first", "marker": str(tmp_path / "started")})
    stub.submit("a", "die").error_line()
    eventually(lambda: stub.control("describe")["state"] == "failed")
    assert "lm_head.weight" in stub.control("health")["detail"]
    assert not stub.control("health")["ready"]
    (tmp_path / "started").unlink()
    eventually(lambda: stub.control("describe")["state"] == "ready")
    assert stub.submit("b", "count 1").finished.wait(WAIT_S)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fail", "lm_head.weight"),
        ("die", "SIGKILL"),
        ("fault", "rank 1 is lost"),
        ("stall", "no progress"),
    ],
)
def test_an_engine_that_cannot_start_says_why_and_leaves_nothing(mode: str, message: str) -> None:
    deadlines = Deadlines(start_stall_s=1.0 if mode == "stall" else WAIT_S, exit_s=0.2)
    num_threads = threading.active_count()
    engine = EngineSupervisor(
        EngineCommand(sys.executable, {"start": mode}, FAKE_ENGINE), InFlight(), deadlines
    )
    with pytest.raises(InternalError, match=message) as raised:
        engine.start()
    assert isinstance(raised.value, EngineCrashed) == (mode == "die")
    assert raised.value.exit_signal == (signal.SIGKILL if mode in ("die", "fault") else None)
    eventually(lambda: threading.active_count() <= num_threads)


def test_an_engine_whose_ranks_are_still_loading_is_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor's clock moves with each sign of the ranks, which in all is many times the limit."""
    stall_s, now_s = 1.0, [0.0]
    receive = engine_supervisor._receive

    def receive_later(channel: Channel[Message]) -> Message | None:
        now_s[0] += 0.9 * stall_s
        return receive(channel)

    monkeypatch.setattr(engine_supervisor, "_receive", receive_later)
    monkeypatch.setattr(engine_supervisor, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(EngineProcess, "progress", lambda _: ())
    stub = start(settings={"start": "slow"}, deadlines=Deadlines(start_stall_s=stall_s))
    assert stub.control("describe")["generation"] == 1
    assert now_s[0] > 10 * stall_s


def test_a_request_that_no_frame_holds_fails_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = start()
    monkeypatch.setattr("ernie_wire.frames.MAX_HEADER_BYTES", 10_000)
    bystander = stub.submit("a", "wait", stream=True)
    line = stub.submit("b", "count 2" + "x" * 10_000).error_line()
    assert line.startswith("invalid_value: the request is too large")
    assert stub.control("cancel", request_id="a") == {"cancelled": True}
    assert bystander.error_line().startswith("cancelled")
    assert stub.control("describe")["generation"] == 1


def test_a_message_that_cannot_be_written_costs_the_engine_but_not_the_writer(start: Start) -> None:
    stub = start()
    sender = stub.submit_request(GenerateRequest("odd", "count 1", priority=1j))  # type: ignore[arg-type]
    assert sender.error_line().startswith("engine_crashed")
    eventually(lambda: stub.control("describe")["generation"] == 2)
    assert stub.submit("after", "count 1").finished.wait(WAIT_S)


def test_a_supervisor_that_meets_a_fault_of_ours_goes_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = start()

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(EngineProcess, "__init__", fail)
    stub.submit("a", "die").error_line()
    eventually(lambda: stub.control("describe")["generation"] == 2)
    assert stub.submit("b", "count 1").finished.wait(WAIT_S)


def test_a_system_without_descriptors_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def socketpair() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("ernie_stub.engine_process.socket.socketpair", socketpair)
    with pytest.raises(EngineStartError, match="Too many open files"):
        EngineProcess(EngineCommand(sys.executable, {}, FAKE_ENGINE))


def test_the_engine_runs_in_an_interpreter_of_its_own(tmp_path: Path) -> None:
    """As with Python 3.10 for an XPU, whatever Python Triton has."""
    noted, python = tmp_path / "noted", tmp_path / "python3.10"
    python.write_text(f'#!/bin/sh\nprintf %s "$0" > {noted}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    directory = tmp_path / "weights"
    directory.mkdir()
    entry = Entry("ernie", tmp_path, {"model": "weights", "engine_python": str(python)})
    command = EngineCommand(entry.engine_python, entry.engine_settings(directory), FAKE_ENGINE)
    engine = EngineSupervisor(command, InFlight(), Deadlines())
    engine.start()
    try:
        eventually(lambda: engine.status()[1] is not None)
    finally:
        engine.stop()
    assert noted.read_text() == str(python)


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineStartError, match=r"engine_python .*/no/python"):
        EngineProcess(EngineCommand("/no/python", {}))


def test_requests_wait_for_a_restart_only_so_many_and_so_long(start: Start, tmp_path: Path) -> None:
    now_s = [0.0]
    in_flight = InFlight(max_held=1, hold_timeout_s=5.0, clock=lambda: now_s[0])
    stub = start(in_flight=in_flight)
    in_flight.hold()
    waiting = stub.submit("a", "count 1")
    with pytest.raises(ModelUnavailable, match=r"1 requests? wait"):
        stub.submit("b", "count 1")
    now_s[0] = 4.9
    in_flight.expire()
    assert not waiting.finished.is_set()
    now_s[0] = 5.1
    in_flight.expire()
    assert "not ready" in waiting.error_line()


def test_stop_ends_requests_and_process(start: Start) -> None:
    stub = start()
    pid = stub.pid()
    sender = stub.submit("a", "wait", stream=True)
    stub.engine.stop()
    assert sender.error_line().startswith("model_unavailable: ")
    assert has_ended(pid)
    with pytest.raises(ModelUnavailable, match="shutting down"):
        stub.submit("b", "count 1")


def test_stop_ends_an_engine_that_hangs(start: Start) -> None:
    stub = start(deadlines=Deadlines(exit_s=0.2))
    pid = stub.pid()
    stub.submit("a", "hang")
    stub.engine.stop()
    assert has_ended(pid)


def test_stop_during_a_restart_leaves_nothing(start: Start) -> None:
    stub = start()
    stub.submit("a", "die").error_line()
    stub.engine.stop()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"fake_engine" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_end_of_the_stub_ends_the_engine() -> None:
    process = EngineProcess(EngineCommand(sys.executable, {}, FAKE_ENGINE))
    process.socket.close()
    assert process.end(WAIT_S) == Exit.of(0), "no signal was needed"
    assert has_ended(process.pid)


def test_the_exit_of_a_signalled_engine_is_named(start: Start) -> None:
    stub = start()
    sender = stub.submit("a", "wait", stream=True)
    os.kill(stub.pid(), signal.SIGTERM)
    assert "SIGTERM" in sender.error_line()
