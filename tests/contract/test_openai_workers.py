"""Several workers behind one port: one limit for all, a dead one replaced, an orderly end, no orphan."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from fakes.triton_grpc import FakeTriton, hang_after_first, tell
from support import http
from support.waiting import eventually

pytest_plugins = ("support.frontend_server",)

WAIT_S = 60.0
MESSAGES = [{"role": "user", "content": "Hi"}]


class Workers:
    """A frontend of two workers."""

    def __init__(self, triton_url: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "ernie_frontend", "--host=127.0.0.1", "--port=0", "--workers=2"]
        self.process = psutil.Popen(
            [*command, f"--triton-url={triton_url}", *arguments], stderr=subprocess.PIPE, text=True
        )
        ready = re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stderr.readline())
        assert ready is not None
        self.port = int(ready[1])

    def workers(self) -> list[psutil.Process]:
        """The worker processes, multiprocessing's own helper left out."""
        found = []
        for child in self.process.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # ended, and not yet waited for
                found += [child] if any("spawn_main" in word for word in child.cmdline()) else []
        return found

    def ask(self) -> httpx.Response:
        return http.post(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json={"prompt": "Hi"},
        )

    def open_stream(self) -> tuple[socket.socket, int]:
        """Begin a stream on a connection of its own; return it and the status of the answer."""
        body = json.dumps({"messages": MESSAGES, "stream": True}).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), WAIT_S)
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return connection, int(connection.recv(65536).split()[1])

    def close(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*self.process.children(recursive=True), self.process]:
                process.kill()
        self.process.communicate()


@pytest.fixture
def run_workers(triton: FakeTriton) -> Iterator[Callable[..., Workers]]:
    started: list[Workers] = []

    def run(*arguments: str) -> Workers:
        started.append(Workers(triton.url, *arguments))
        return started[-1]

    yield run
    for workers in started:
        workers.close()


def test_the_limit_counts_over_all_workers(triton: FakeTriton, run_workers: Callable[..., Workers]) -> None:
    triton.answer = hang_after_first
    workers = run_workers("--max-concurrency=3")
    opened = [workers.open_stream() for _ in range(8)]
    assert sorted(status for _, status in opened) == [200] * 3 + [429] * 5
    for connection, _ in opened:
        connection.close()
    for _ in range(3):
        triton.cancelled.get(timeout=WAIT_S)
    triton.answer = tell
    eventually(lambda: workers.ask().status_code == 200)


def test_a_dead_worker_is_replaced_and_its_slots_are_free(
    triton: FakeTriton, run_workers: Callable[..., Workers]
) -> None:
    triton.answer = hang_after_first
    workers = run_workers("--max-concurrency=2")
    opened = [workers.open_stream() for _ in range(2)]
    assert [status for _, status in opened] == [200, 200]
    eventually(lambda: len(workers.workers()) == 2)
    before = workers.workers()
    for worker in before:
        worker.kill()
    triton.answer = tell
    eventually(lambda: len(set(workers.workers()) - set(before)) == 2)
    for _ in range(4):
        assert workers.ask().status_code == 200
    for connection, _ in opened:
        connection.close()
    workers.process.terminate()
    log = workers.process.stderr.read()
    assert all(re.search(rf"worker {worker.pid} .*SIGKILL", log) for worker in before)


def test_sigterm_lets_answers_end_and_ends_all(triton: FakeTriton, run_workers: Callable[..., Workers]) -> None:
    workers = run_workers("--timeout-graceful-shutdown=60")
    assert workers.ask().status_code == 200
    eventually(lambda: len(workers.workers()) == 2)
    children = workers.workers()
    workers.process.send_signal(signal.SIGTERM)
    assert workers.process.wait(WAIT_S) == 0
    _, alive = psutil.wait_procs(children, WAIT_S)
    assert not alive
    assert "Traceback" not in workers.process.stderr.read()


def test_a_killed_supervisor_leaves_no_worker(triton: FakeTriton, run_workers: Callable[..., Workers]) -> None:
    workers = run_workers()
    assert workers.ask().status_code == 200
    eventually(lambda: len(workers.workers()) == 2)
    children = workers.workers()
    workers.process.kill()
    _, alive = psutil.wait_procs(children, WAIT_S)
    assert not alive
