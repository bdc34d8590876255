"""Ranks on two machines, for which loopback addresses stand: they serve one model, or say why they cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ernie_kernels.cpu.ops import ISA_VARIABLE
from ernie_wire.messages import Fault, StartFailed, Starting
from support.free_ports import free_port
from support.paths import DATA
from support.rank_engines import DEADLINE_S, assert_goldens, rank_processes, start


@pytest.fixture(autouse=True)
def _is_first_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")


def two_machines() -> dict[str, str]:
    return {"ips": "127.0.0.1,127.0.0.2", "engine_worker_queue_port": str(free_port())}


@contextmanager
def rank_of_machine_1(model: Path, parameters: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The only rank of the second of two machines; its standard error is a pipe."""
    settings = json.dumps({"model": str(model), "tensor_parallel_size": "2", **parameters})
    command = [sys.executable, "-m", "ernie_backend.parallel", "--settings", settings, "--index", "0"]
    environment = {**os.environ, "PADDLE_TRAINER_ID": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.full
def test_ranks_of_another_machine_follow_and_end_with_the_engine() -> None:
    machines = two_machines()
    with start("dense", 2, **machines) as engine, rank_of_machine_1(DATA / "dense", machines) as other:
        engine.ready()
        assert rank_processes(engine) == []
        assert_goldens(engine, "dense")
        engine.close()
        assert other.wait(DEADLINE_S) == 0
        assert "notice:" not in other.communicate()[1]


@pytest.mark.full
def test_a_machine_that_computes_otherwise_gets_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = two_machines()
    with rank_of_machine_1(DATA / "dense", machines) as other:
        monkeypatch.setenv(ISA_VARIABLE, "scalar")
        with start("dense", 2, **machines) as engine:
            engine.ready()
            engine.close()
            log = other.communicate(timeout=DEADLINE_S)[1]
    assert re.search("notice: rank 1 computes with cpu avx.*, and rank 0 with cpu scalar", log)


@pytest.mark.full
def test_machines_with_different_models_are_told_on_both(tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(DATA / "dense", tmp_path / "theirs"))
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    complaint = f"{theirs / 'config.json'} is not that of rank 0; use the same model everywhere"
    machines = two_machines()
    with start("dense", 2, **machines) as engine, rank_of_machine_1(theirs, machines) as other:
        while isinstance(message := engine.receive(), Starting):
            pass
        assert isinstance(message, Fault)
        assert re.match(f"rank 1 .*127.0.0.2.*{complaint}", message.cause)
        assert other.wait(DEADLINE_S) == 1
        assert complaint in other.communicate()[1]


@pytest.mark.full
def test_a_rank_that_was_started_for_another_group_ends_with_the_reason() -> None:
    machines = two_machines()
    with start("moe_tp", 2, **machines) as engine:
        with rank_of_machine_1(DATA / "moe_tp", {**machines, "tensor_parallel_size": "4"}) as other:
            assert other.wait(DEADLINE_S) == 1
            assert "4 ranks on 2 machines" in other.communicate()[1]
        with rank_of_machine_1(DATA / "moe_tp", machines) as other:
            engine.ready()
            engine.close()
            assert other.wait(DEADLINE_S) == 0
            other.communicate()


def test_a_list_of_machines_without_this_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLE_TRAINER_ID")
    with start("dense", 2, ips="203.0.113.1,203.0.113.2") as engine:
        message = engine.receive()
    assert isinstance(message, StartFailed)
    assert "203.0.113.1,203.0.113.2" in message.error
