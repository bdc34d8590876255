"""Engines of several ranks, and the tokens that the goldens say they give."""

from __future__ import annotations

from typing import Any

import numpy as np

from ernie_wire.messages import Fault, GenerateRequest
from ernie_wire.sampling import SamplingParameters
from support.engine_process import TIMEOUT_S, Engine
from support.paths import DATA
from support.waiting import children, eventually, has_ended

DEADLINE_S = 10 * TIMEOUT_S


def start(family: str, ranks: int, **parameters: str) -> Engine:
    model = {"model": str(DATA / family), "tensor_parallel_size": str(ranks), "activation_dtype": "float32"}
    engine = Engine(**{**model, **parameters})
    engine.socket.settimeout(DEADLINE_S)
    return engine


def prompts_and_answers(family: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    with np.load(DATA / f"{family}.npz") as golden:
        return [
            (tuple(golden[f"row{row}.input_ids"].tolist()), tuple(golden[f"row{row}.greedy"].tolist()))
            for row in range(4)
        ]


def submit(name: str, prompt: tuple[int, ...], **sampling: Any) -> GenerateRequest:
    asked = {"max_tokens": 32, "temperature": 0, "ignore_eos": True, **sampling}
    parameters = SamplingParameters.from_json(asked)
    return GenerateRequest(name, input_ids=prompt, stream=True, sampling=parameters)


def answers(engine: Engine, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Ask all prompts at once; return the tokens."""
    for row, prompt in enumerate(prompts):
        engine.send(submit(str(row), prompt))
    outputs = engine.outputs_until(len(prompts))
    return [sum((output.token_ids for output in outputs[str(row)]), ()) for row in range(len(prompts))]


def assert_goldens(engine: Engine, family: str) -> None:
    """All rows of a golden at once, then the longest prompt alone, have the tokens of the oracle."""
    rows = prompts_and_answers(family)
    for batch in (rows, rows[3:]):
        assert answers(engine, [prompt for prompt, _ in batch]) == [answer for _, answer in batch]


def rank_processes(engine: Engine) -> list[int]:
    """The processes that the engine started."""
    return children(engine.process.pid)


def wait_for_the_end_of(pids: list[int]) -> None:
    eventually(lambda: all(map(has_ended, pids)), lambda: f"some of {pids} are left", DEADLINE_S)


def fault(engine: Engine) -> Fault:
    """What the engine says before it ends."""
    while not isinstance(message := engine.receive(), Fault):
        pass
    return message
