"""Ranks on Paddle's CPU place, whose sums go the way that those of XPUs go: the tokens of the goldens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from ernie_kernels.communicator import ProcessGroupConfig
from ernie_kernels.paddle.place import paddle
from ernie_kernels.paddle.process_group import join_host_group
from numerics.golden import golden_rows
from support.free_ports import free_port

DEADLINE_S = 600.0


@pytest.mark.parametrize(
    ("family", "layout", "size", "is_expert_parallel"),
    [
        ("moe_tp", "hf", 2, True),
        pytest.param("moe_tp", "hf", 2, False, marks=pytest.mark.full),
        pytest.param("moe_tp", "hf", 4, False, marks=pytest.mark.full),
        pytest.param("moe", "hf", 2, True, marks=pytest.mark.full),
        pytest.param("moe300b", "hf", 2, True, marks=pytest.mark.full),
        pytest.param("moe300b", "hf", 2, False, marks=pytest.mark.full),
        pytest.param("dense", "hf", 2, False, marks=pytest.mark.full),
        pytest.param("moe_tp", "paddle", 2, False, marks=pytest.mark.full),
        pytest.param("moe", "paddle", 2, True, marks=pytest.mark.full),
        pytest.param("moe300b", "paddle", 2, False, marks=pytest.mark.full),
        pytest.param("dense", "paddle", 2, False, marks=pytest.mark.full),
    ],
)
def test_ranks_give_the_tokens_of_the_goldens(
    family: str, layout: str, size: int, is_expert_parallel: bool
) -> None:
    """And random ones, chosen on the device, by the definition; all ranks choose the same."""
    master = f"127.0.0.1:{free_port()}"
    arguments = [
        [family, layout, str(rank), str(size), master, str(is_expert_parallel)] for rank in range(size)
    ]
    first, *others = run_ranks(arguments)
    greedy, random, expected = json.loads(first)
    assert greedy == [row.greedy for row in golden_rows(family)]
    assert random == expected
    assert len({tuple(draw) for draw in random}) > 1, "nothing is random"
    assert others == [first] * (size - 1)


def run_ranks(arguments: list[list[str]], module: str = "numerics.rank_program") -> list[str]:
    """Run a program with each list of arguments; returns what they print, fails if one does."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", module]
    ranks = [
        subprocess.Popen(
            [*program, *each], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for each in arguments
    ]
    with ThreadPoolExecutor(len(ranks)) as pool:
        said = [pool.submit(rank.communicate) for rank in ranks]
        try:
            for done in as_completed(said, DEADLINE_S):  # the others would wait for one that has failed
                assert ranks[said.index(done)].returncode == 0, done.result()[1]
        finally:
            for rank in ranks:
                rank.kill()
    return [each.result()[0] for each in said]


def test_a_failed_rank_is_told_at_once_with_what_it_said() -> None:
    rest = ["2", f"127.0.0.1:{free_port()}", "False"]
    with pytest.raises(AssertionError, match="no such family"):
        run_ranks([["dense", "hf", "0", *rest], ["no such family", "hf", "1", *rest]])


@pytest.mark.parametrize(("address", "interface"), [("127.0.0.1", "lo"), ("192.0.2.1", None)])
def test_gloo_of_one_machine_listens_at_loopback(
    address: str, interface: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(paddle.distributed, "init_parallel_env", lambda: None)
    join_host_group(ProcessGroupConfig(1, 2, f"{address}:{free_port()}", address))
    assert environment.get("GLOO_SOCKET_IFNAME") == interface


def test_a_port_that_was_taken_meanwhile_is_an_error_not_the_end_of_the_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        master = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=f"{master}, .*Address already in use"):
            join_host_group(ProcessGroupConfig(0, 2, master, "127.0.0.1"))
