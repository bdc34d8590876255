"""The dense goldens in float32: logits, hidden states and 32 greedy tokens, by every backend, in both layouts.

A prompt gives the same alone, in a ragged batch and prefilled in chunks.
"""

from __future__ import annotations

import numpy as np
import pytest

from numerics.backends import BACKENDS, make_ops
from numerics.generation import generate, load, prompt_logits
from numerics.golden import (
    DETAILED_ROW,
    DIRECTORIES,
    HIDDEN_TOLERANCE,
    LOGITS_TOLERANCE,
    golden_details,
    golden_rows,
    max_difference,
)
from numerics.oracle import Oracle
from numerics.recording import RecordingOps

ROWS = golden_rows()
NUM_TOKENS = len(ROWS[0].greedy)

backends = pytest.mark.parametrize("backend", BACKENDS)
layouts = pytest.mark.parametrize("layout", DIRECTORIES)
chunks = pytest.mark.parametrize("chunk", [None, 1, 3, 7])


@backends
@layouts
@pytest.mark.parametrize("row", range(len(ROWS)))
def test_alone(backend: str, layout: str, row: int) -> None:
    ops = make_ops(backend)
    generated, logits = generate(load(DIRECTORIES[layout], ops), ops, [ROWS[row].prompt], NUM_TOKENS)
    assert max_difference(logits[0], ROWS[row].logits) <= LOGITS_TOLERANCE
    assert generated[0] == ROWS[row].greedy


@backends
@layouts
@chunks
def test_in_a_ragged_batch(backend: str, layout: str, chunk: int | None) -> None:
    ops = make_ops(backend)
    prompts = [row.prompt for row in ROWS]
    generated, logits = generate(load(DIRECTORIES[layout], ops), ops, prompts, NUM_TOKENS, chunk)
    assert max_difference(logits, np.stack([row.logits for row in ROWS])) <= LOGITS_TOLERANCE
    assert generated == [row.greedy for row in ROWS]


@backends
@layouts
@chunks
def test_hidden_states(backend: str, layout: str, chunk: int | None) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(DIRECTORIES[layout], ops)
    expected = golden_details()
    logits = prompt_logits(model, ops, ROWS[DETAILED_ROW].prompt, chunk)
    per_step = 1 + 2 * model.config.num_layers
    for index, hidden in enumerate(expected.hidden):
        found = np.concatenate(ops.residuals[2 * index :: per_step])
        assert max_difference(found, hidden) <= HIDDEN_TOLERANCE, f"after {index} layers"
    final_norm = np.concatenate(ops.normed[per_step - 1 :: per_step])
    assert max_difference(final_norm, expected.final_norm) <= HIDDEN_TOLERANCE
    assert max_difference(logits, expected.logits) <= LOGITS_TOLERANCE


def test_the_oracle_itself() -> None:
    """The other tests rely on it where there is no golden."""
    oracle = Oracle.read(DIRECTORIES["hf"])
    for row in ROWS:
        assert max_difference(oracle.logits(row.prompt)[-1], row.logits) <= LOGITS_TOLERANCE
