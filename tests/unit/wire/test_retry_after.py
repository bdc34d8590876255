"""The hint of a full queue survives the way through Triton."""

from __future__ import annotations

from ernie_wire.errors import QueueFull, parse_error


def test_the_hint_is_read_from_the_line() -> None:
    error = parse_error(QueueFull("9 requests are waiting; retry after 12 s").to_line())
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == 12


def test_without_a_hint_it_is_a_second() -> None:
    assert QueueFull("no more").retry_after_s == 1
