"""The dense model with an int8 KV cache: against the goldens, and an oracle that rounds the cache the same way.

A code is a step function: a key that differs in its last bit may move by one code, and the logits with it by
more than 1e-3. So attention is held to the oracle layer by layer, each given the input that it really had, and
the whole model to a cosine.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from numerics.backends import BACKENDS, CPU_BACKENDS, make_ops, rounds_attention
from numerics.generation import assert_steps_change_no_bit, generate, load, prompt_logits
from numerics.golden import (
    DIRECTORIES,
    LOGITS_TOLERANCE,
    assert_rounded_rows_agree,
    assert_rows_agree,
    cosine,
    golden_rows,
    max_difference,
)
from numerics.oracle import Oracle
from numerics.recording import RecordingOps

ROWS = golden_rows()
PROMPTS = [row.prompt for row in ROWS]
TEXT = ROWS[3].prompt + ROWS[3].greedy

backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@pytest.mark.parametrize("chunk", [None, 7])
def test_logits_stay_close_to_those_of_a_float32_cache(backend: str, chunk: int | None) -> None:
    ops = make_ops(backend)
    _, logits = generate(load(DIRECTORIES["hf"], ops), ops, PROMPTS, 1, chunk, "int8")
    expected = np.stack([row.logits for row in ROWS])
    assert cosine(logits, expected) >= 0.99
    assert max_difference(logits[1:], expected[1:]) > LOGITS_TOLERANCE, "nothing was rounded"


@backends
def test_attention_rounds_the_cache_as_the_oracle_does(backend: str) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(DIRECTORIES["hf"], ops)
    prompt_logits(model, ops, TEXT, cache_dtype="int8")
    oracle = dataclasses.replace(Oracle.read(DIRECTORIES["hf"]), has_int8_cache=True)
    for layer in range(model.config.num_layers):
        hidden, (_, attended) = ops.products[3 * layer][0], ops.products[3 * layer + 1]
        expected = oracle.attention(f"model.layers.{layer}.self_attn.", hidden)
        (assert_rounded_rows_agree if rounds_attention(backend) else assert_rows_agree)(attended, expected)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_cpu_logits_do_not_depend_on_the_step(backend: str) -> None:
    """Alone or together, in one piece or in chunks: the same bits."""
    ops = make_ops(backend)
    model = load(DIRECTORIES["hf"], ops, quantization="wint8")
    assert_steps_change_no_bit(model, ops, PROMPTS, cache_dtype="int8")
