"""The sampling of tokens in C++, on every instruction set, against the definition by full sorts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_kernels.cpu import CpuOps, instruction_sets
from ernie_kernels.sampling import (
    ROW,
    SamplingBatch,
    SamplingFilters,
    kept_weights,
    sample_tokens,
    sampling_batch,
)

OPS = {name: CpuOps(2, name) for name in instruction_sets(include_lowered=True)}
DRAWS = 64

Logits = NDArray[np.float32]


def _batch(
    count: int, temperature: float = 1.0, min_p: float = 0.0, top_k: int = 0, top_p: float = 1.0
) -> SamplingBatch:
    """Rows that ask for the same, with numbers spread over [0, 1)."""
    filters = SamplingFilters(temperature, min_p, top_k, top_p)
    return sampling_batch((filters, (row + 0.5) / count) for row in range(count))


def _columns(**columns: object) -> SamplingBatch:
    """Rows whose values are given column by column."""
    batch = np.zeros(len(columns["uniform"]), ROW)  # type: ignore[arg-type]
    for name, values in columns.items():
        batch[name] = values
    return batch


def _support(ops: CpuOps, logits: Logits, row: SamplingBatch) -> set[int]:
    """All tokens that can be chosen: each has at least 1/1000 of the weight in these tests."""
    many = np.repeat(row, 4000)
    many["uniform"] = (np.arange(4000) + 0.5) / 4000
    return set(ops.sample_tokens(np.tile(logits, (4000, 1)), many).tolist())


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"temperature": 0.3},
        {"top_p": 0.8},
        {"top_p": 1e-5},
        {"top_p": 0.999},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 1000},
        {"top_k": -1},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"temperature": 2.0, "min_p": 0.05, "top_k": 20, "top_p": 0.7},
    ],
    ids=str,
)
def test_what_can_be_chosen_is_what_the_filters_keep(name: str, asked: dict[str, float]) -> None:
    logits = np.random.default_rng(3).normal(0, 1, 61).astype(np.float32)
    row = _batch(1, **asked)  # type: ignore[arg-type]
    kept = kept_weights(logits[None], row)[0]
    likely = {int(token) for token in np.flatnonzero(kept / kept.sum() > 1e-3)}
    support = _support(OPS[name], logits, row)
    assert likely <= support
    assert support <= {int(token) for token in np.flatnonzero(kept)}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("width", [1, 3, 8, 255, 257, 4096, 103424])
@pytest.mark.parametrize("spread", [0.01, 2.0, 30.0])
def test_tokens_are_those_of_the_definition(name: str, width: int, spread: float) -> None:
    """The same token for the same number, but where the number falls onto a border between two tokens."""
    generator = np.random.default_rng(width)
    count = 6 if width > 4096 else DRAWS
    logits = generator.normal(0, spread, (count, width)).astype(np.float32)
    batch = _columns(
        temperature=generator.choice([0.01, 0.8, 3.0], count).astype(np.float32),
        min_p=generator.choice([0.0, 0.01], count).astype(np.float32),
        top_k=generator.choice([0, 1, 5, 50, width], count).astype(np.int64),
        top_p=generator.choice([0.1, 0.8, 0.95, 1.0], count),
        uniform=generator.random(count),
    )
    tokens = OPS[name].sample_tokens(logits, batch)
    weights = kept_weights(logits, batch)
    above = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    for row, token in enumerate(tokens.tolist()):
        below = above[row, token - 1] if token else 0.0
        assert below - 1e-5 <= batch["uniform"][row] <= above[row, token] + 1e-5


@pytest.mark.parametrize("name", OPS)
def test_of_equals_the_lower_index_is_kept(name: str) -> None:
    logits = np.zeros((1, 10), np.float32)
    logits[0, 7] = 1.0
    assert _support(OPS[name], logits[0], _batch(1, top_k=4)) == {0, 1, 2, 7}
    assert _support(OPS[name], logits[0], _batch(1, top_p=0.5)) == {0, 1, 2, 3, 7}
    assert _support(OPS[name], np.zeros(600, np.float32), _batch(1, top_p=0.25)) == set(range(150))


@pytest.mark.parametrize("name", OPS)
def test_minus_infinity_is_never_chosen_and_far_logits_do_no_harm(name: str) -> None:
    logits = np.full((5, 20), -np.inf, np.float32)
    logits[:, 4] = 3e38
    logits[1:, 5] = -3e38
    batch = _columns(
        temperature=np.array([1, 1e-5, 1e5, 1, 1], np.float32),
        min_p=np.zeros(5, np.float32),
        top_k=np.array([0, 0, 0, 3, 0], np.int64),
        top_p=np.array([1, 1, 1, 1, 0.9999]),
        uniform=np.full(5, np.nextafter(1, 0)),
    )
    assert OPS[name].sample_tokens(logits, batch).tolist() == [4] * 5
    assert sample_tokens(logits, batch).tolist() == [4] * 5


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_a_row_does_not_depend_on_the_others_nor_on_threads(name: str, seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 700)).astype(np.float32)
    batch = _columns(
        temperature=generator.uniform(0.1, 2, count).astype(np.float32),
        min_p=generator.choice([0.0, 0.1], count).astype(np.float32),
        top_k=generator.integers(0, 30, count),
        top_p=generator.uniform(0.05, 1, count),
        uniform=generator.random(count),
    )
    together = OPS[name].sample_tokens(logits, batch).tolist()
    alone = CpuOps(1, name)
    assert together == [
        alone.sample_tokens(logits[row : row + 1], batch[row : row + 1])[0] for row in range(count)
    ]


def test_what_is_asked_must_fit() -> None:
    ops, logits = CpuOps(1), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="row of logits"):
        ops.sample_tokens(logits, _batch(1))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ops.sample_tokens(logits, _batch(2, temperature=0.0))
    with pytest.raises(ValueError, match="top_p must be above 0"):
        ops.sample_tokens(logits, _batch(2, top_p=float("nan")))
    with pytest.raises(ValueError, match="batch has 1 dimensions and items"):
        ops.sample_tokens(logits, np.zeros(2, [("temperature", np.float32), ("top_p", np.float32)]))
    with pytest.raises(ValueError, match="logits columns"):
        ops.sample_tokens(np.zeros((1, 0), np.float32), _batch(1))
