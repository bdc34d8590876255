"""A taken port is named with its holder before anything starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.processes.ports import LOOPBACK, choose_ports, holder_of
from support.free_ports import free_port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_an_error_that_names_port_flag_and_process(taken_port: int) -> None:
    with pytest.raises(CommandError) as raised:
        choose_ports({"--port": (LOOPBACK, taken_port)})
    assert f"process {os.getpid()}" in raised.value.message
    assert "--port" in raised.value.message


def test_all_interfaces_count_as_taken_when_loopback_is(taken_port: int) -> None:
    with pytest.raises(CommandError, match="in use"):
        choose_ports({"--port": ("0.0.0.0", taken_port)})


def test_a_free_port_passes_and_stays_free() -> None:
    port = free_port()
    assert choose_ports({"--port": (LOOPBACK, port)}) == choose_ports({"--port": (LOOPBACK, port)}) == (port,)


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(CommandError, match=r"203\.0\.113\.1:80.*--host"):
        choose_ports({"--port": ("203.0.113.1", 80)})


def test_nobody_holds_a_free_port() -> None:
    port = free_port()
    assert holder_of(port) is None


def test_two_flags_may_not_ask_for_one_port() -> None:
    port = free_port()
    with pytest.raises(CommandError, match=f"--port .*--triton-http-port .*{port}"):
        choose_ports({"--port": ("0.0.0.0", port), "--triton-http-port": ("127.0.0.1", port)})


def test_what_was_asked_for_is_kept_and_the_rest_is_different() -> None:
    port = free_port()
    wanted = {"a": ("127.0.0.1", 0), "--port": ("127.0.0.1", port), "b": ("127.0.0.1", 0)}
    chosen = choose_ports(wanted)
    assert chosen[1] == port
    assert len(set(chosen)) == len(wanted)
