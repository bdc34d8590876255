"""A rank whose main thread hangs while its process lives ends the group within seconds, by its name."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ernie_wire.messages import Outputs
from support.checkpoints.long_context import LONG_ANSWER, LONG_CONTEXT, with_long_context
from support.freezing import hold
from support.paths import DATA
from support.rank_engines import (
    DEADLINE_S,
    fault,
    prompts_and_answers,
    rank_processes,
    start,
    submit,
    wait_for_the_end_of,
)


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "ranks", "hanging"),
    [("dense", 2, 1), pytest.param("moe_tp", 4, 3, marks=pytest.mark.full)],
)
def test_a_rank_that_hangs_in_a_step_is_named(family: str, ranks: int, hanging: int, tmp_path: Path) -> None:
    model = with_long_context(tmp_path, DATA / family)
    with start(family, ranks, model=str(model), max_model_len=str(LONG_CONTEXT)) as engine:
        engine.ready()
        engine.send(submit("long", prompts_and_answers(family)[2][0], max_tokens=LONG_ANSWER))
        while not isinstance(engine.receive(), Outputs):
            pass
        rank = rank_processes(engine)[hanging - 1]
        hold(rank)
        # Later than these, gloo gives up, and the innocent fail.
        how = "hangs in a step|has been silent for 10 s"  # if it held the interpreter's lock
        assert re.fullmatch(rf"rank {hanging} \(process {rank}\) ({how}): .*", fault(engine).cause)
        assert engine.process.wait(DEADLINE_S) == 1
        wait_for_the_end_of([rank])


@pytest.mark.full
def test_an_aborted_rank_writes_its_stacks() -> None:
    """Ranks exist, so Paddle is there, which has signal handlers of its own."""
    with start("dense", 2) as engine:
        engine.ready()
        (rank,) = rank_processes(engine)
        os.kill(rank, signal.SIGABRT)
        assert re.match(rf"rank 1 \(process {rank}\) .*SIGABRT", fault(engine).cause)
        log = engine.close()
    assert "Fatal Python error: Aborted" in log
    assert "in _receive" in log
