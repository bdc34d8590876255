"""The numbers of errors survive the way through Triton."""

from __future__ import annotations

import pytest

from ernie_wire.errors import EngineCrashed, QueueFull, parse_error


def test_the_hint_is_read_from_the_line() -> None:
    line = QueueFull("9 requests are waiting", retry_after_s=12).to_line()
    assert line == "queue_full(retry_after_s=12): 9 requests are waiting"
    error = parse_error(line)
    assert isinstance(error, QueueFull)
    assert (error.message, error.retry_after_s) == ("9 requests are waiting", 12)


def test_a_number_that_is_not_the_errors_own_is_left_out() -> None:
    error = parse_error("queue_full[messages](exit_signal=9): no more")
    assert isinstance(error, QueueFull)
    assert (error.param, error.message, error.retry_after_s) == ("messages", "no more", 1)


@pytest.mark.parametrize("exit_signal", [None, 9])
def test_so_does_the_signal_that_ended_an_engine(exit_signal: int | None) -> None:
    error = parse_error(EngineCrashed("it ended", exit_signal=exit_signal).to_line())
    assert isinstance(error, EngineCrashed)
    assert (error.message, error.exit_signal) == ("it ended", exit_signal)


def test_without_a_hint_it_is_a_second() -> None:
    assert QueueFull("no more").retry_after_s == 1
