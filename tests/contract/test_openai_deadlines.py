"""Clients that stall: while they send, while they read, and before they begin; and connections.

The frontend's clock is put forward to its deadlines, so that no test depends on how fast it runs itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import re
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from contract.test_openai_connections import BODY, STREAM, request, send
from fakes.triton_grpc import EventLoopThread, FakeTriton, Inference, Response, hang_after_first
from support.http import answer_of, connected
from support.waiting import eventually

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
SHORT_S = 30.0
"""A deadline of the frontend, on its clock."""
LONG_S = 1e6
WAIT_S = 20.0
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
PIECE: dict[str, object] = {
    "text_output": "x",
    "finish_reason": "",
    "num_input_tokens": 7,
    "num_output_tokens": 1,
}
DEADLINES = ("idle_timeout_s", "header_timeout_s", "body_timeout_s", "write_timeout_s")


@contextmanager
def timed(run_frontend: RunFrontend, triton: FakeTriton, short: str, **settings: object) -> Iterator[str]:
    """A frontend with one short deadline, so that a test sees that one at work."""
    deadlines = {name: SHORT_S if name == short else LONG_S for name in DEADLINES}
    with run_frontend(triton.url, **deadlines, **settings) as url:
        yield url


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed, as far as is known now."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        connection.settimeout(WAIT_S)


def until_closed(connection: socket.socket, clock: EventLoopThread, drip: bytes = b"") -> None:
    until = time.monotonic() + WAIT_S
    while is_open(connection):
        assert time.monotonic() < until, "it is still open"
        try:
            connection.sendall(drip)
        except OSError:
            return
        clock.pass_time(SHORT_S / 10)


def arrived(connection: socket.socket) -> bool:
    """Whether the other side's kernel has all that was sent."""
    (num_unsent,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return bool(num_unsent == 0)


@pytest.mark.parametrize("before", [0, 1, 2], ids=["new", "after a request", "after two"])
def test_an_idle_connection_is_closed(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton, before: int
) -> None:
    with timed(run_frontend, triton, "idle_timeout_s") as url, connected(url) as connection:
        for _ in range(before):
            send(connection, request("/v1/models"))
            assert answer_of(connection)[0].status == 200
        until_closed(connection, triton_loop)


@pytest.mark.parametrize("start", [b"G", b"GET /v1/models HTTP/1.1\r\nX: "], ids=["first byte", "in a field"])
@pytest.mark.parametrize("drip", [b"", b"a"], ids=["silent", "dripping"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_header_without_an_end(
    run_frontend: RunFrontend,
    triton_loop: EventLoopThread,
    triton: FakeTriton,
    start: bytes,
    drip: bytes,
    is_first: bool,
) -> None:
    """However many bytes come: the deadline is that of the whole header."""
    with timed(run_frontend, triton, "header_timeout_s") as url, connected(url) as connection:
        if not is_first:
            send(connection, request("/v1/models"))
            assert answer_of(connection)[0].status == 200
        connection.sendall(start)
        until_closed(connection, triton_loop, drip)


@pytest.mark.parametrize("drip", [b"", b" "], ids=["silent", "dripping"])
@pytest.mark.parametrize("path", [b"/nothing", b"/v1/models"])
def test_a_body_that_nobody_reads(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton, path: bytes, drip: bytes
) -> None:
    """It was answered, and its connection must not stay open for the rest of it."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" % path
    with timed(run_frontend, triton, "header_timeout_s") as url, connected(url) as connection:
        connection.sendall(head)
        assert answer_of(connection)[0].status in (404, 405)
        until_closed(connection, triton_loop, drip)


@pytest.mark.parametrize("drip", [b"", b" "], ids=["silent", "dripping"])
def test_a_body_that_stalls_gets_408(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton, drip: bytes
) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    with timed(run_frontend, triton, "body_timeout_s") as url, connected(url) as connection:
        connection.sendall(head + b"{")
        until = time.monotonic() + WAIT_S
        connection.setblocking(False)
        while not _has_answer(connection):
            assert time.monotonic() < until
            connection.send(drip)
            triton_loop.pass_time(SHORT_S / 10)
        connection.settimeout(WAIT_S)
        answer, content = answer_of(connection)
    assert (answer.status, answer.getheader("connection")) == (408, "close")
    error = json.loads(content)["error"]
    assert error["code"] == "request_too_slow"
    assert not triton.inferences


def _has_answer(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return False


def test_a_slow_body_that_moves_is_read_to_its_end(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    """Over many times the deadline: each of them must only bring its part, which is 1 KiB for each second."""
    num_pieces, piece_bytes = 20, int(SHORT_S) * 1400
    body = BODY.ljust(num_pieces * piece_bytes)
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
    with timed(run_frontend, triton, "body_timeout_s") as url, connected(url) as connection:
        connection.sendall(head)
        for start in range(0, len(body), piece_bytes):
            connection.sendall(body[start : start + piece_bytes])
            eventually(lambda: arrived(connection))
            triton_loop.pass_time(SHORT_S / 3)
        assert answer_of(connection)[0].status == 200


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
def test_a_long_answer_has_no_deadline(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton, body: bytes
) -> None:
    deadlines = dict.fromkeys(DEADLINES, SHORT_S)

    async def slow(inference: Inference) -> AsyncIterator[Response]:
        for reason in ("", "", "stop"):
            triton_loop.loop.ahead_s += 2 * SHORT_S
            await asyncio.sleep(0.01)
            yield {**PIECE, "finish_reason": reason}

    triton.answer = slow
    with run_frontend(triton.url, **deadlines) as url, connected(url) as connection:
        send(connection, request("/v1/completions", body=body))
        answer, content = answer_of(connection)
        assert answer.status == 200
        assert content.count(b"x") >= 3
        send(connection, request("/v1/models"))  # and the connection can still be used
        assert answer_of(connection)[0].status == 200


def test_stalled_bodies_hold_no_slot(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(run_frontend(triton.url, max_concurrency=2))
        for _ in range(8):
            stalled = stack.enter_context(connected(url))
            stalled.sendall(HEAD + BODY[:-1])
        with connected(url) as connection:
            for _ in range(3):
                send(connection, request("/v1/completions", body=BODY))
                assert answer_of(connection)[0].status == 200
        stalled.sendall(BODY[-1:])
        assert answer_of(stalled)[0].status == 200


def test_whoever_ends_its_body_when_the_slots_are_taken_gets_429(
    run_frontend: RunFrontend, triton: FakeTriton
) -> None:
    triton.answer = hang_after_first
    with ExitStack() as stack:
        url = stack.enter_context(run_frontend(triton.url, max_concurrency=1))
        late, early, third = (stack.enter_context(connected(url)) for _ in range(3))
        late.sendall(HEAD + BODY[:-1])
        time.sleep(0.1)
        send(early, request("/v1/completions", body=STREAM))
        assert early.recv(1)
        late.sendall(BODY[-1:])
        third.sendall(HEAD)
        for connection in (late, third):  # the third is told before its body has come
            assert answer_of(connection)[0].status == 429


def test_a_client_that_reads_nothing_is_given_up(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    """Its answer waits in bounded memory, and its generation is cancelled in the end."""

    async def endless(inference: Inference) -> AsyncIterator[Response]:
        while True:
            yield {**PIECE, "text_output": "x" * 10_000}
            await asyncio.sleep(0)

    def is_cancelled() -> bool:
        triton_loop.pass_time(SHORT_S / 10)
        return not triton.cancelled.empty()

    triton.answer = endless
    with timed(run_frontend, triton, "write_timeout_s") as url, connected(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send(connection, request("/v1/completions", body=STREAM))
        eventually(is_cancelled)
        assert triton.cancelled.get() == triton.inferences[0].inputs["request_id"]


def test_a_slow_reader_gets_all_of_its_answer(
    run_frontend: RunFrontend, triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    """One write of the application, which takes longer than any deadline to be read."""
    size = 6 << 20

    async def large(inference: Inference) -> AsyncIterator[Response]:
        yield {**PIECE, "text_output": "x" * size, "finish_reason": "stop"}

    triton.answer = large
    deadlines = {**dict.fromkeys(DEADLINES, SHORT_S), "idle_timeout_s": LONG_S}
    with run_frontend(triton.url, **deadlines) as url, connected(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        send(connection, request("/v1/completions", body=BODY))
        received = num_pieces = 0
        while received < size:
            piece = connection.recv(128 << 10)
            assert piece, received
            received += len(piece)
            num_pieces += 1
            triton_loop.pass_time(SHORT_S / 12)
        assert num_pieces > 2 * 12


def test_pipelined_requests_are_all_answered(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    one = b"".join(request("/v1/completions", body=BODY))
    with timed(run_frontend, triton, "header_timeout_s") as url, connected(url) as connection:
        connection.sendall(one * 20)
        stream = connection.makefile("rb")
        for _ in range(20):
            assert stream.readline().startswith(b"HTTP/1.1 200")
            size = 0
            while (line := stream.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            assert b"Beijing." in stream.read(size)


@pytest.mark.parametrize("start", [b"", b"GET /"], ids=["idle", "in a header"])
def test_waiting_connections_give_way(
    run_frontend: RunFrontend,
    triton_loop: EventLoopThread,
    triton: FakeTriton,
    caplog: pytest.LogCaptureFixture,
    start: bytes,
) -> None:
    """Those that stand open keep nobody out, and one line says so."""
    with ExitStack() as stack:
        url = stack.enter_context(run_frontend(triton.url, max_connections=10))
        idle = [stack.enter_context(connected(url)) for _ in range(30)]
        for connection in idle:
            with contextlib.suppress(OSError):  # some have given way
                connection.sendall(start)
        for _ in range(12):
            with connected(url) as connection:
                send(connection, request("/v1/models"))
                assert answer_of(connection)[0].status == 200
        for connection in idle[:20]:
            eventually(lambda: not is_open(connection))  # noqa: B023 - done in its turn
    lines = [record for record in caplog.records if record.name == "ernie_frontend.http.connections"]
    assert len(lines) == 1
    assert lines[0].levelno == logging.WARNING


def test_connections_at_work_do_not_give_way(run_frontend: RunFrontend, triton: FakeTriton) -> None:
    triton.answer = hang_after_first
    with ExitStack() as stack:
        url = stack.enter_context(run_frontend(triton.url, max_connections=4))
        working = [stack.enter_context(connected(url)) for _ in range(4)]
        for connection in working:
            send(connection, request("/v1/completions", body=STREAM))
            assert connection.recv(1)
        refused = stack.enter_context(connected(url))
        answer, content = answer_of(refused)
        assert (answer.status, answer.getheader("connection")) == (503, "close")
        assert "connections" in json.loads(content)["error"]["message"]
        working.pop().close()
        until = time.monotonic() + WAIT_S
        while True:
            with connected(url) as connection:
                send(connection, request("/v1/models"))
                if answer_of(connection)[0].status == 200:
                    break
            assert time.monotonic() < until


def test_a_process_that_may_open_too_few_files_says_so() -> None:
    # By a shell: with preexec_fn, Python would fork, and gRPC may write about that to the standard error.
    command = ["sh", "-c", 'ulimit -n 150; exec "$@"', "sh", sys.executable, "-m", "ernie_frontend"]
    command += ["--host", "127.0.0.1", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert re.search("150 files.* 192", line)
