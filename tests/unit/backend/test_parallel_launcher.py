"""The group is launched: a rank of this machine that ends is seen while others are waited for."""

from __future__ import annotations

import signal
import socket

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.parallel.group import GroupObserver
from ernie_backend.parallel.launcher import launch_group
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.messages import CODEC, Failed, Join
from ernie_backend.settings.reader import read_settings
from ernie_wire.frames import receive_frame, send_frame
from ernie_wire.processes import Exit
from support.free_ports import free_port
from support.paths import DATA

MOE_TP = DATA / "moe_tp"


class EndedRank:
    """A rank that has said something and ended."""

    pid = 7

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            send_frame(theirs, *CODEC.encode(Failed("not read yet")))

    def how_it_ended(self) -> Exit:
        return Exit("was killed", signal.SIGKILL)


class HearingRank(EndedRank):
    """A rank whose end of the socket is the test's."""

    def __init__(self) -> None:
        self.socket, self.theirs = socket.socketpair()

    def kill(self) -> None:
        """Nothing runs."""


class CountingObserver(GroupObserver):
    """Counts the signs of life."""

    count = 0

    def on_progress(self) -> None:
        self.count += 1

    def on_failure(self, cause: str, exit_signal: int | None, /) -> None:
        """This process goes on."""


def test_a_rank_that_ends_while_others_are_waited_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = EndedRank()
    monkeypatch.setattr("ernie_backend.parallel.launcher.RankProcess", lambda *_: rank)
    layout = Layout(4, ("127.0.0.1", "127.0.0.2"), 0, free_port())
    parameters = {"model": str(MOE_TP), "tensor_parallel_size": "4"}
    settings = read_settings(parameters, ModelConfig.from_directory(MOE_TP))
    observer = CountingObserver()
    with rank.socket, pytest.raises(StartError, match=r"^rank 1 .*killed$") as raised:
        launch_group(settings, parameters, layout, observer)
    assert raised.value.exit_signal == signal.SIGKILL
    assert observer.count


@pytest.mark.parametrize(("instruction_set", "expected"), [("avx2", "int16"), ("avx512-vnni", "int8")])
def test_all_ranks_round_as_rank_0_does(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, expected: str
) -> None:
    """A rank on another processor would resolve auto otherwise."""
    rank = HearingRank()
    monkeypatch.setattr("ernie_backend.parallel.launcher.RankProcess", lambda *_: rank)
    monkeypatch.setattr("ernie_backend.devices.backend._cpu_instruction_set", lambda: instruction_set)
    parameters = {"model": str(MOE_TP), "tensor_parallel_size": "2", "quantization": "wint8"}
    settings = read_settings(parameters, ModelConfig.from_directory(MOE_TP))
    launch_group(settings, parameters, Layout(2, ("127.0.0.1",), 0, 0), CountingObserver())
    with rank.theirs:
        frame = receive_frame(rank.theirs)
    assert frame is not None
    join = CODEC.decode(*frame)
    assert isinstance(join, Join)
    assert join.parameters["activation_dtype"] == expected
