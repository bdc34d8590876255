"""The sampler against exact probabilities, with fixed seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.logits_processors import BadWords, LogitBias
from ernie_backend.runner.sampler import Sampler, uniform
from ernie_backend.runner.sampling_rows import SamplingRow
from ernie_kernels.cpu import CpuOps
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import NO_TOKEN, TokenSampler
from fakes.sequences import sampled_sequence as _row

DRAWS = 2500


SAMPLERS: list[TokenSampler] = [ReferenceOps(), CpuOps(2)]


def sample(
    logits: NDArray[np.float32], rows: list[Sequence], vocab_size: int, tokens: TokenSampler = SAMPLERS[1]
) -> NDArray[np.int64]:
    sampled = Sampler(tokens, vocab_size).sample(logits, [SamplingRow(row) for row in rows])
    return np.array([each.token_id for each in sampled])


def _like(sequence: Sequence, index: int) -> Sequence:
    """A sequence sampled like another, with so many tokens."""
    like = _row(index=index)
    like.sampling = sequence.sampling
    return like


def _exact(logits: NDArray[np.float32], sequence: Sequence) -> NDArray[np.float64]:
    """The distribution by the textbook: full sort, no shortcuts."""
    row = sequence.sampling.filters
    weights = np.exp((logits.astype(np.float64) - logits.max()) / row.temperature)
    weights[weights < row.min_p] = 0
    order = np.argsort(-weights, kind="stable")
    kept = order[: row.top_k] if row.top_k else order
    mass = np.cumsum(weights[kept]) / weights[kept].sum()
    kept = kept[: int((mass < row.top_p).sum()) + 1]
    exact = np.zeros(len(logits))
    exact[kept] = weights[kept] / weights[kept].sum()
    return exact


@pytest.mark.parametrize(
    "asked",
    [
        _row(),
        _row(0.5),
        _row(2.0, 0.8),
        _row(1.0, 0.3),
        _row(1.3, 1.0, 5),
        _row(1.0, 0.7, 4),
        _row(5.0, 0.95),
        _row(2.0, min_p=0.2),
        _row(3.0, 0.9, 9, min_p=0.1),
    ],
    ids=str,
)
@pytest.mark.parametrize("tokens", SAMPLERS, ids=lambda tokens: type(tokens).__name__)
def test_frequencies_follow_the_exact_probabilities(asked: Sequence, tokens: TokenSampler) -> None:
    logits = np.random.default_rng(5).normal(0, 2, 24).astype(np.float32)
    exact = _exact(logits, asked)
    asked.sampling = replace(asked.sampling, seed=11)
    rows = [_like(asked, index) for index in range(DRAWS)]
    counts = np.bincount(sample(np.tile(logits, (DRAWS, 1)), rows, 24, tokens), minlength=24)
    assert not counts[exact == 0].any(), "a token outside the kept set was chosen"
    expected = exact * DRAWS
    large = expected >= 5
    statistic = float(((counts - expected)[large] ** 2 / expected[large]).sum())
    freedom = max(1, int(large.sum()) - 1)
    assert statistic < freedom + 5 * np.sqrt(2 * freedom), (statistic, freedom)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0, 30.0])
def test_what_is_kept_of_a_large_vocabulary_is_exact(spread: float) -> None:
    logits = np.random.default_rng(1).normal(0, spread, 5000).astype(np.float32)
    for row in (
        _row(1.0, 0.9),
        _row(1.0, 0.999),
        _row(2.0, 1.0, 700),
        _row(0.5, 0.5, 40),
        _row(1.0, 1.0, 4999),
    ):
        exact = _exact(logits, row)
        row.sampling = replace(row.sampling, seed=3)
        rows = [_like(row, index) for index in range(200)]
        tokens = sample(np.tile(logits, (200, 1)), rows, 5000)
        assert (exact[tokens] > 0).all()
        many = min(200, 1 / float((exact**2).sum()))  # the effective number of tokens
        assert len(set(tokens.tolist())) > 0.4 * many


@pytest.mark.parametrize(
    "row", [_row(0.0), _row(9e-6), _row(1.0, 0.0), _row(1.0, 9e-6), _row(1.0, 1.0, 1)], ids=str
)
def test_greedy_takes_the_most_likely(row: Sequence) -> None:
    logits = np.array([[0.0, 3.0, 2.9, -1.0]], np.float32)
    assert sample(logits, [row], 4).tolist() == [1]


def test_padding_is_never_chosen() -> None:
    logits = np.array([[0.0, 1.0, 50.0, 60.0]] * 50, np.float32)
    rows = [_row(temperature=0.0 if index % 2 else 10.0, index=index) for index in range(50)]
    assert set(sample(logits, rows, 2).tolist()) == {0, 1}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_fail_their_own_row_only(bad: float) -> None:
    logits = np.array([[0.0, 9.0], [bad, 0.0], [9.0, 0.0]], np.float32)
    assert sample(logits, [_row(0.0), _row(), _row(0.0)], 2).tolist() == [1, NO_TOKEN, 0]


def test_minus_infinity_is_a_probability_of_zero() -> None:
    logits = np.array([[-np.inf, 0.0, -np.inf]] * 20, np.float32)
    assert set(sample(logits, [_row(index=index) for index in range(20)], 3).tolist()) == {1}


def test_the_number_depends_on_seed_and_index_only() -> None:
    assert uniform(7, 3) == uniform(7, 3)
    numbers = {uniform(seed, index) for seed in (0, 1, 2**63 - 1) for index in range(100)}
    assert len(numbers) == 300
    assert all(0 <= number < 1 for number in numbers)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_row_is_the_same_alone_and_in_any_batch(data: st.DataObject) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    logits = generator.normal(0, 3, (5, 40)).astype(np.float32)
    rows = [
        _row(
            data.draw(st.sampled_from([0.0, 0.7, 1.5])),
            data.draw(st.sampled_from([0.5, 0.9, 1.0])),
            data.draw(st.sampled_from([0, 3, 40, 100])),
            data.draw(st.integers(0, 2**63 - 1)),
            data.draw(st.integers(0, 5000)),
            data.draw(st.sampled_from([0.0, 0.3])),
        )
        for _ in range(5)
    ]
    together = sample(logits, rows, 40)
    order = data.draw(st.permutations(range(5)))
    shuffled = sample(logits[order], [rows[each] for each in order], 40)
    assert shuffled.tolist() == together[order].tolist()
    assert [sample(logits[each : each + 1], [rows[each]], 40)[0] for each in range(5)] == together.tolist()


def test_processors_change_their_own_row_of_a_copy() -> None:
    logits = np.tile(np.array([0.0, 3.0, 2.9, -1.0], np.float32), (3, 1))
    before = logits.copy()
    rows = [_row(0.0), _row(0.0, processors=(BadWords([(1,)]),)), _row(0.0)]
    assert sample(logits, rows, 4).tolist() == [1, 2, 1]
    np.testing.assert_array_equal(logits, before)


def test_processors_come_before_the_choice() -> None:
    processors = (LogitBias({3: 50.0}),)
    logits = np.zeros((20, 4), np.float32)
    rows = [_row(index=index, top_k=2, processors=processors) for index in range(20)]
    assert set(sample(logits, rows, 4).tolist()) == {3}
