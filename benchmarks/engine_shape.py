"""An engine with a shape of ``model_shapes`` and random weights."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.service.start import StartedEngine, start_engine
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from model_shapes import SHAPES


def start_shape(shape: str, **settings: str) -> StartedEngine:
    """Start an engine in this process, on the CPU and with random weights.

    Args:
        shape: a name in ``SHAPES``.
        settings: further settings of the engine, as in an entry's ``config.pbtxt``.
    """
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(SHAPES[shape]))
        fixed = {"model": directory, "device": "cpu", "load_choices": "dummy", "weight_cache": "off"}
        return start_engine({**fixed, **settings})


def submit_random(started: StartedEngine, request_id: str, prompt_tokens: int, max_tokens: int) -> RequestState:
    """Give an engine a prompt of random tokens that no other shares, answered greedily to its full length."""
    chosen = random.Random(request_id)
    request = GenerateRequest(
        request_id=request_id,
        input_ids=tuple(chosen.randrange(3, 100000) for _ in range(prompt_tokens)),
        sampling=SamplingParameters(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
    )
    state = started.input_processor.process(request)
    started.engine.submit(state)
    return state


def time_decode(
    engine: Engine, request_ids: Iterable[str], num_steps: int, clock: Callable[[], float]
) -> float:
    """Return the seconds of ``clock`` that decode steps of submitted requests take; they are cancelled then."""
    while engine.heartbeat.waiting:
        engine.step()
    engine.step()
    start = clock()
    for _ in range(num_steps):
        engine.step()
    taken = clock() - start
    for request_id in request_ids:
        engine.cancel(request_id)
    return taken
