"""Ranks on Paddle's CPU place, whose sums go the way that those of XPUs go: the tokens of the goldens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_kernels.ranks import Rendezvous
from ernie_kernels.xpu.process_group import join_hosts
from numerics.golden import golden_rows

DEADLINE_S = 600.0


@pytest.mark.parametrize(
    ("family", "size", "is_expert_parallel"),
    [
        ("moe_tp", 2, True),
        pytest.param("moe", 2, True, marks=pytest.mark.full),
        pytest.param("dense", 2, False, marks=pytest.mark.full),
        pytest.param("moe_tp", 4, False, marks=pytest.mark.full),
        pytest.param("moe300b", 2, True, marks=pytest.mark.full),
    ],
)
def test_ranks_give_the_tokens_of_the_goldens(family: str, size: int, is_expert_parallel: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "numerics.rank_program", family]
    ranks = [
        subprocess.Popen(
            [*program, str(rank), str(size), master, str(is_expert_parallel)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(size)
    ]
    try:
        printed, _ = ranks[0].communicate(timeout=DEADLINE_S)
        assert [rank.wait(DEADLINE_S) for rank in ranks] == [0] * size
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert json.loads(printed) == [row.greedy for row in golden_rows(family)]


def test_a_port_that_was_taken_meanwhile_is_an_error_not_the_end_of_the_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        master = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            RuntimeError, match=rf"cannot meet at {master}, .* \(Address already in use\); start"
        ):
            join_hosts(Rendezvous(0, 2, master, "127.0.0.1"))
