"""Dead, stopped and hanging processes of a real ``serve``: what clients see, and that it serves again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from support import http
from support.freezing import hang, stop
from support.serving import FLAGS, Serving
from support.waiting import eventually

RECOVERY_S = 100.0
"""Ten times the target."""
FAILURE_S = 100.0
LONG = {"model": "null", "prompt": [5, 6, 7], "max_tokens": 1400, "ignore_eos": True}
SHORT = {"model": "null", "prompt": [5, 6, 7], "max_tokens": 2}
MAX_FAULTS = 6
NUM_TRIALS = 30
PATIENT = """
from ernie_cli.serve import recovery
recovery.MAX_FAULTS, recovery._MAX_PAUSE_S = 1000, 0.0
from ernie_cli.main import main
main()
"""
NUM_STREAMS = 8


class House:
    """A running service, and its processes."""

    def __init__(self, *flags: str, program: Sequence[str] = ("-m", "ernie_cli")) -> None:
        self.serving = Serving("serve", *FLAGS, *flags, program=program)

    def wait_until_ready(self) -> None:
        self.url = self.serving.wait_until_ready()

    def triton(self) -> psutil.Process:
        return next(child for child in self.serving.process.children() if child not in self._frontends())

    def frontend(self) -> psutil.Process:
        return self._frontends()[0]

    def stub(self) -> psutil.Process:
        return self.serving.descendants("triton_python_backend_stub")[0]

    def engine(self) -> psutil.Process:
        return self.serving.descendants("ernie_backend")[0]

    def _frontends(self) -> list[psutil.Process]:
        return [process for process in self.serving.descendants("ernie_frontend") if process.is_running()]

    def answer(self) -> httpx.Response | None:
        """Ask for two tokens; None if nobody listens."""
        try:
            return http.post(f"{self.url}/v1/completions", json=SHORT, timeout=FAILURE_S)
        except httpx.TransportError:
            return None

    def stop(self, *, has_lost_connections: bool = False) -> float:
        """Let it end as its user does; return how many seconds that takes.

        After connections were lost, Triton 2.51 may wait its whole exit timeout for a request that has ended:
        under load once in some 20 times.
        """
        begin = time.monotonic()
        self.serving.process.terminate()
        assert self.serving.wait() == 0
        assert self.serving.output[-1] == "Stopped."
        if not has_lost_connections:
            assert not any("Exit timeout expired" in line for line in self.serving.output)
        assert self.serving.leftovers() == []
        return time.monotonic() - begin

    def num_regions(self) -> int:
        """Count the shared memory regions."""
        return len(list(Path("/dev/shm").glob(f"ernie-triton-*-{self.serving.process.pid}-*")))

    def python_folder(self) -> Path | None:
        """Return the folder of Triton's Python backend, if known: others may make one meanwhile."""
        link = self.serving.run_directory / "python_env"
        return link.readlink() if link.is_symlink() else None


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    running = House()
    try:
        running.wait_until_ready()
        yield running
        running.stop(has_lost_connections=True)
    finally:
        running.serving.close()


class Reader(threading.Thread):
    """A client that reads one long stream after the other, until one is cut."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.has_begun = threading.Event()
        self.events: list[str] = []
        self.error: httpx.TransportError | None = None
        self.start()

    def run(self) -> None:
        try:
            while self._read_one():
                pass
        except httpx.TransportError as error:
            self.error = error

    def _read_one(self) -> bool:
        """Return whether the answer was complete."""
        self.events = []
        body = {**LONG, "stream": True}
        with httpx.stream("POST", f"{self._url}/v1/completions", json=body, timeout=FAILURE_S) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    self.events.append(line.removeprefix("data: "))
                    self.has_begun.set()
        return len(self.events) > 1 and "error" not in json.loads(self.events[-2])

    def code(self) -> str | None:
        """Return the code of the error that ended its stream; None if it was refused before it began."""
        self.join(FAILURE_S)
        assert not self.is_alive(), "the stream hangs"
        if not self.events:
            return None
        assert self.events[-1] == "[DONE]"
        code: str = json.loads(self.events[-2])["error"]["code"]
        return code


def kill(process: psutil.Process) -> None:
    process.kill()


def stop_and_go(process: psutil.Process) -> None:
    """Let a process miss the deadlines of those who wait for it, and die when they have given it up."""
    stop(process)
    time.sleep(1.8)
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have been replaced meanwhile
        process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        process.kill()


def break_under_streams(
    house: House, part: Callable[[House], psutil.Process], act: Callable[[psutil.Process], None]
) -> tuple[list[Reader], float]:
    """Let a fault happen under streams; return them, and the seconds until the service answers again."""
    broken = part(house)
    readers = [Reader(house.url) for _ in range(NUM_STREAMS)]
    assert all(reader.has_begun.wait(FAILURE_S) for reader in readers)
    begin = time.monotonic()
    act(broken)
    until = begin + RECOVERY_S
    while (response := house.answer()) is None or response.status_code != 200 or part(house) == broken:
        if response is not None and response.status_code == 503:
            assert int(response.headers["Retry-After"]) > 0
        assert time.monotonic() < until, "\n".join(house.serving.output)
        time.sleep(0.2)
    return readers, time.monotonic() - begin


def check_recovery(
    house: House, part: Callable[[House], psutil.Process], act: Callable[[psutil.Process], None]
) -> None:
    """Let a fault happen: streams end with an error, the service returns, and nothing is left."""
    frontend, triton = house.frontend(), house.triton()
    num_regions, folder = house.num_regions(), house.python_folder()
    readers, _ = break_under_streams(house, part, act)
    codes = [reader.code() for reader in readers]
    assert any(codes), "no stream was under way"
    assert set(codes) <= {"model_unavailable", "engine_crashed", None}
    assert house.frontend() == frontend
    eventually(lambda: house.num_regions() == num_regions, house.num_regions)
    assert folder is None or folder.exists() == triton.is_running()
    assert httpx.get(f"{house.url}/health", timeout=FAILURE_S).status_code == 200
    eventually(lambda: len(house.serving.descendants("ernie_backend")) == 1)


@pytest.mark.timeout(3 * RECOVERY_S)
@pytest.mark.parametrize(
    ("part", "act"),
    [
        pytest.param(House.triton, stop, id="triton stopped", marks=pytest.mark.full),
        pytest.param(House.stub, kill, id="stub killed"),
    ],
)
def test_streams_end_with_an_error_and_the_service_returns(
    house: House, part: Callable[[House], psutil.Process], act: Callable[[psutil.Process], None]
) -> None:
    check_recovery(house, part, act)


@pytest.mark.full
@pytest.mark.timeout(3 * RECOVERY_S)
@pytest.mark.parametrize(
    ("part", "act"),
    [
        pytest.param(House.triton, kill, id="triton killed"),
        pytest.param(House.triton, hang, id="triton hangs"),
        pytest.param(House.stub, stop, id="stub stopped"),
        pytest.param(House.engine, stop, id="engine stopped"),
    ],
)
def test_so_they_do_after_any_fault(
    part: Callable[[House], psutil.Process], act: Callable[[psutil.Process], None]
) -> None:
    house = House()
    try:
        house.wait_until_ready()
        check_recovery(house, part, act)
    finally:
        house.serving.close()


@pytest.mark.full
@pytest.mark.timeout(20 * RECOVERY_S)
@pytest.mark.parametrize(
    ("act", "times"),
    [pytest.param(kill, 20, id="killed"), pytest.param(stop_and_go, 5, id="stopped, continued and killed")],
)
def test_one_service_survives_many_deaths_of_its_stub(
    act: Callable[[psutil.Process], None], times: int
) -> None:
    """Run with -s to see the figures for docs/operations.md."""
    house = House(program=("-c", PATIENT))
    try:
        house.wait_until_ready()
        num_regions = house.num_regions()
        codes: Counter[str | None] = Counter()
        seconds = []
        for _ in range(times):
            readers, recovery_s = break_under_streams(house, House.stub, act)
            seconds.append(recovery_s)
            codes.update(reader.code() for reader in readers)
            assert house.num_regions() == num_regions
            assert len(house.serving.descendants("ernie_backend")) == 1
        stopping_s = house.stop()
    finally:
        house.serving.close()
    assert set(codes) <= {"model_unavailable", "engine_crashed", None}
    begun = codes.total() - codes[None]
    sys.stdout.write(
        f"\n{times} deaths under {NUM_STREAMS} streams: {begun} ended with an error event and [DONE],"
        f" {codes[None]} had not begun; served again after {statistics.median(seconds):.1f} s,"
        f" {max(seconds):.1f} s at most; stopped in {stopping_s:.1f} s\n"
    )


@pytest.mark.full
@pytest.mark.timeout(NUM_TRIALS * RECOVERY_S)
def test_a_triton_that_a_dying_stub_takes_along_is_started_again() -> None:
    """Triton 2.51 aborts now and then when its stub stops, goes on and dies: tried until that was met."""
    for _ in range(NUM_TRIALS):
        house = House()
        try:
            house.wait_until_ready()
            triton = house.triton()
            check_recovery(house, House.stub, stop_and_go)
            if house.triton() != triton:
                assert any("tritonserver ended: it was" in line for line in house.serving.output)
                return
        finally:
            house.serving.close()
    raise AssertionError(f"Triton survived {NUM_TRIALS} deaths of its stub")


def check_engine_stays(house: House, engine: psutil.Process, triton: psutil.Process) -> None:
    """Check that it does, unless Triton 2.51 crashed over the lost connection: once in some 80 times."""
    if house.triton() == triton:
        assert house.engine() == engine, "\n".join(house.serving.output)
    else:
        assert any("tritonserver ended: it was ended by SIG" in line for line in house.serving.output)


def test_a_killed_frontend_is_started_again_and_the_engine_stays(house: House) -> None:
    engine, triton = house.engine(), house.triton()
    readers, _ = break_under_streams(house, House.frontend, kill)
    for reader in readers:
        reader.join(FAILURE_S)
        assert not reader.is_alive()
        assert reader.error is not None or not reader.events  # cut, or refused between two answers
    check_engine_stays(house, engine, triton)


@pytest.mark.full
@pytest.mark.timeout(3 * RECOVERY_S)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_frontend_that_hangs_is_started_again_and_the_engine_stays(workers: int) -> None:
    house = House("--workers", str(workers))
    try:
        house.wait_until_ready()
        engine, triton, frontend = house.engine(), house.triton(), house.frontend()
        for process in [frontend, *frontend.children(recursive=True)]:
            hang(process)
        until = time.monotonic() + RECOVERY_S
        while not any("the OpenAI frontend is restarted" in line for line in house.serving.output):
            assert time.monotonic() < until, "\n".join(house.serving.output)
            time.sleep(0.2)
        assert not frontend.is_running()
        response = house.answer()
        assert response is not None
        assert response.status_code == 200
        check_engine_stays(house, engine, triton)
        house.stop()
    finally:
        house.serving.close()


@pytest.mark.full
@pytest.mark.timeout(3 * RECOVERY_S)
def test_a_triton_that_dies_again_and_again_ends_it_with_the_cause_last() -> None:
    house = House()
    try:
        house.wait_until_ready()
        killed: set[int] = set()
        until = time.monotonic() + RECOVERY_S
        while len(killed) < MAX_FAULTS and house.serving.process.is_running():
            assert time.monotonic() < until, house.serving.output
            triton = house.triton()
            killed.add(triton.pid)
            os.kill(triton.pid, signal.SIGKILL)
            while triton.is_running():
                time.sleep(0.1)
            while len(house.serving.process.children()) < 2 and len(killed) < MAX_FAULTS:
                time.sleep(0.1)
        assert house.serving.wait() == 1
        assert (
            "given up after 6 faults within 10 minutes, the last: tritonserver ended"
            in house.serving.output[-1]
        )
        assert not any("frontend ended" in line or line.startswith("  | ") for line in house.serving.output)
        assert house.serving.leftovers() == []
    finally:
        house.serving.close()
