"""The log never waits for its reader, and says what it dropped."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_frontend.log_output import LogOutput

PIPE_BYTES = 4096
DEADLINE_S = 60.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe that holds little."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reader, writer
    os.close(reader)


def everything(reader: int, writer: int, output: LogOutput, end: str = "the end\n") -> list[str]:
    """Return all lines, now that somebody reads, with a last one that finds room."""
    chunks: list[bytes] = []
    thread = threading.Thread(target=lambda: chunks.extend(iter(lambda: os.read(reader, 65536), b"")))
    thread.start()
    output.drain(DEADLINE_S)  # else there may be no room for the end
    if end:
        output.write(end)
    output.drain(DEADLINE_S)
    os.close(writer)
    thread.join(DEADLINE_S)
    return b"".join(chunks).decode().splitlines()


def flooded(writer: int) -> LogOutput:
    """Return an output that dropped most of 5000 lines, the last ones with them: the pipe was full before."""
    os.write(writer, b"\n" * PIPE_BYTES)
    output = LogOutput(writer, capacity_bytes=10_000)
    for number in range(5000):
        output.write(f"line {number:06}\n")
    return output


def test_lines_that_nobody_reads_are_dropped_and_counted(pipe: tuple[int, int]) -> None:
    output = flooded(pipe[1])
    lines = everything(*pipe, output)
    kept = [int(line.split()[1]) for line in lines if line.startswith("line")]
    dropped = [int(match[1]) for line in lines if (match := re.match(r"(\d+) lines were dropped", line))]
    assert dropped
    assert kept == sorted(kept), "they are in their order"
    assert len(kept) + sum(dropped) == 5000
    assert "dropped" in lines[-2], "those that were dropped last, too"


def test_the_number_of_dropped_lines_needs_no_further_line(pipe: tuple[int, int]) -> None:
    assert "dropped" in everything(*pipe, flooded(pipe[1]), end="")[-1]


@pytest.mark.parametrize("is_blocking", [True, False])
def test_everything_arrives_at_a_reader_however_long_a_write_is(
    pipe: tuple[int, int], is_blocking: bool
) -> None:
    os.set_blocking(pipe[1], is_blocking)
    output = LogOutput(pipe[1])
    expected = [f"{number} " + "x" * 3000 for number in range(100)]
    for line in expected:
        output.write(line.encode() + b"\n")
    assert everything(*pipe, output) == [*expected, "the end"]


def test_a_reader_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = LogOutput(writer)
    output.write("a line\n")
    output.drain(DEADLINE_S)
    output.write("another\n")
    output.drain(DEADLINE_S)
    os.close(writer)


def test_it_serves_as_a_stream_of_logging(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        output = LogOutput(file.fileno())
        handler = logging.StreamHandler(output)
        handler.emit(logging.LogRecord("name", logging.INFO, "", 0, "half \udc80 of %s", ("a pair",), None))
        output.drain(DEADLINE_S)
    assert (tmp_path / "log").read_bytes() == b"half ? of a pair\n"


def test_a_service_does_not_depend_on_whoever_reads_its_standard_output() -> None:
    code = (
        "import asyncio, ernie_cli.serve.command as command\n"
        "assert asyncio.run(command._print_services('http://127.0.0.1:1')) is True\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
