"""The shapes of models, as their ``config.json`` says them, and an engine of one with random weights.

All speed measurements are made on these.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.service.start import StartedEngine, start_engine
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters

SHAPE: dict[str, Any] = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "model_type": "ernie4_5",
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "use_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""ERNIE-4.5-0.3B."""

SHAPE_21B: dict[str, Any] = {
    **SHAPE,
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "model_type": "ernie4_5_moe",
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "moe_num_experts": 64,
    "moe_k": 6,
    "moe_intermediate_size": 1536,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 27,
    "moe_layer_interval": 1,
}
"""ERNIE-4.5-21B-A3B: 21.8 billion weights, 3.4 billion of which a token reads."""

SHAPES = {"0.3b": SHAPE, "21b-a3b": SHAPE_21B}


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
