"""The goldens in float32, by every backend: logits, hidden states, routing, 32 greedy tokens; both layouts.

A prompt gives the same alone, in a ragged batch, prefilled in chunks, and computed again after preemption.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from numerics.backends import BACKENDS, make_ops
from numerics.generation import generate, load, prompt_logits
from numerics.golden import (
    COMPRESSION_RATIO,
    DETAILED_ROW,
    FAMILIES,
    HIDDEN_TOLERANCE,
    LAYOUTS,
    LOGITS_TOLERANCE,
    MOE_FAMILIES,
    ROUTER_TOLERANCE,
    checkpoint,
    golden_details,
    golden_routing,
    golden_rows,
    max_difference,
)
from numerics.oracle import Oracle
from numerics.recording import RecordingOps
from numerics.routing import by_index
from support.checkpoints.paddle_layout import tensors_of, write_paddle_twin
from support.paths import DATA

backends = pytest.mark.parametrize("backend", BACKENDS)
families = pytest.mark.parametrize("family", FAMILIES)
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@backends
@families
def test_alone(backend: str, family: str) -> None:
    ops = make_ops(backend)
    model = load(checkpoint(family), ops)
    for row in golden_rows(family):
        generated, logits = generate(model, ops, [row.prompt], len(row.greedy))
        assert max_difference(logits[0], row.logits) <= LOGITS_TOLERANCE
        assert generated[0] == row.greedy


@backends
@families
@layouts
def test_in_a_ragged_batch(backend: str, family: str, layout: str) -> None:
    _assert_batch_is_golden(backend, family, layout, None)


@backends
@families
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_in_chunks(backend: str, family: str, chunk: int) -> None:
    _assert_batch_is_golden(backend, family, "hf", chunk)


def _assert_batch_is_golden(backend: str, family: str, layout: str, chunk: int | None) -> None:
    ops, rows = make_ops(backend), golden_rows(family)
    model = load(checkpoint(family, layout), ops)
    generated, logits = generate(model, ops, [row.prompt for row in rows], len(rows[0].greedy), chunk)
    assert max_difference(logits, np.stack([row.logits for row in rows])) <= LOGITS_TOLERANCE
    assert generated == [row.greedy for row in rows]


@backends
@families
def test_after_preemption(backend: str, family: str) -> None:
    """The prompt and the tokens so far are computed again at once, some requests further than others."""
    ops, rows = make_ops(backend), golden_rows(family)
    prompts = [row.prompt + row.greedy[: 5 * index] for index, row in enumerate(rows)]
    generated, _ = generate(load(checkpoint(family), ops), ops, prompts, 17)
    assert generated == [row.greedy[5 * index : 5 * index + 17] for index, row in enumerate(rows)]


@backends
@families
@pytest.mark.parametrize("chunk", [None, 3])
def test_hidden_states(backend: str, family: str, chunk: int | None) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(checkpoint(family), ops)
    expected = golden_details(family)
    logits = prompt_logits(model, ops, golden_rows(family)[DETAILED_ROW].prompt, chunk)
    per_step = 1 + 2 * model.config.num_layers
    for index, hidden in enumerate(expected.hidden):
        found = np.concatenate(ops.residuals[2 * index :: per_step])
        assert max_difference(found, hidden) <= HIDDEN_TOLERANCE, f"after {index} layers"
    final_norm = np.concatenate(ops.normed[per_step - 1 :: per_step])
    assert max_difference(final_norm, expected.final_norm) <= HIDDEN_TOLERANCE
    assert max_difference(logits, expected.logits) <= LOGITS_TOLERANCE


@backends
@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_every_token_goes_to_the_same_experts(backend: str, family: str) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(checkpoint(family), ops)
    for index, row in enumerate(golden_rows(family)):
        ops.routings.clear()
        prompt_logits(model, ops, row.prompt)
        for found, expected in zip(ops.routings, golden_routing(family, index), strict=True):
            found, expected = by_index(found), by_index(expected)
            np.testing.assert_array_equal(found.experts, expected.experts)
            assert max_difference(found.weights, expected.weights) <= ROUTER_TOLERANCE


@backends
@pytest.mark.parametrize("chunk", [None, 3])
def test_positions_are_divided_by_the_compression_ratio(
    tmp_path: Path, backend: str, chunk: int | None
) -> None:
    """Goldens of transformers, whose linear rope scaling of the same factor is the same division."""
    shutil.copytree(checkpoint("dense"), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"compression_ratio": COMPRESSION_RATIO}))
    ops, rows = make_ops(backend), golden_rows("dense_compressed")
    prompts = [row.prompt for row in rows]
    generated, logits = generate(load(tmp_path, ops), ops, prompts, len(rows[0].greedy), chunk)
    assert max_difference(logits, np.stack([row.logits for row in rows])) <= LOGITS_TOLERANCE
    assert generated == [row.greedy for row in rows]


@families
def test_the_oracle_itself(family: str) -> None:
    """The other tests rely on it where there is no golden."""
    oracle = Oracle.read(checkpoint(family))
    for row in golden_rows(family):
        assert max_difference(oracle.logits(row.prompt)[-1], row.logits) <= LOGITS_TOLERANCE


@pytest.mark.parametrize("family", ["dense", "moe", "moe300b"])
def test_the_twin_that_is_written_is_the_oracles(tmp_path: Path, family: str) -> None:
    """One checkpoint comes without its twin in the Paddle layout."""
    write_paddle_twin(checkpoint(family), tmp_path)
    found, expected = tensors_of(tmp_path), tensors_of(DATA / f"{family}-Paddle")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
