"""Tokens chosen on Paddle's place against the definition: for many numbers, filters and shapes of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_kernels.formats import round_to_bfloat16
from ernie_kernels.paddle.place import Place
from ernie_kernels.paddle.sampling import CANDIDATES, RowOrder, head_output
from ernie_kernels.sampling import (
    GREEDY,
    NO_TOKEN,
    HeadOutput,
    SamplingBatch,
    SamplingFilters,
    TokenChoices,
    choose_tokens,
    kept_weights,
    sampling_batch,
)
from fakes.paddle_bfloat16 import counted_copies
from numerics.ops_cases import plain_batch

PLACE = Place.select("cpu")
VOCAB, DRAWS, ROUNDING = 2 * CANDIDATES + 52, 60, 1e-5

Floats = NDArray[np.float32]


def _output(logits: Floats, choices: TokenChoices) -> tuple[HeadOutput, int]:
    """What comes to the host of these logits, and in how many copies."""
    rows = np.arange(len(logits), dtype=np.int32)
    order = RowOrder.of(replace(plain_batch(len(logits)), logit_rows=rows, choices=choices))
    values = PLACE.upload(logits[order.rows])
    parameters = PLACE.upload(order.parameters) if len(order.sampling) else None
    with counted_copies() as counts:
        found = head_output(values, order, parameters)
    assert counts.uploads == 0
    return found, counts.downloads


def _chosen(logits: Floats, sampling: SamplingBatch) -> NDArray[np.int64]:
    """The tokens of these logits, each row its own."""
    rows = np.arange(len(logits), dtype=np.int32)
    return _output(logits, TokenChoices(rows, sampling, logits.shape[1]))[0].tokens


def _many(filters: SamplingFilters) -> SamplingBatch:
    """Numbers spread over [0, 1), both ends included."""
    return sampling_batch((filters, min((row + row / DRAWS) / DRAWS, 1 - 2**-53)) for row in range(DRAWS))


def _normal(spread: float) -> Callable[[], Floats]:
    return lambda: np.random.default_rng(3).normal(0, spread, VOCAB).astype(np.float32)


SHAPES: dict[str, Callable[[], Floats]] = {
    "peaked": _normal(6.0),
    "broad": _normal(2.0),
    "rounded to bfloat16, with equals": lambda: round_to_bfloat16(_normal(2.0)() + 8),
    "all equal": lambda: np.zeros(VOCAB, np.float32),
    "two thirds impossible": lambda: np.where(np.arange(VOCAB) % 3 == 0, _normal(2.0)(), np.float32(-np.inf)),
    "far apart": lambda: np.linspace(-3e38, 3e38, VOCAB, dtype=np.float32),
}
FILTERS = [
    SamplingFilters(),
    SamplingFilters(0.8, top_p=0.8),
    SamplingFilters(1.0, top_k=7),
    SamplingFilters(1.3, top_k=50, top_p=0.9),
    SamplingFilters(1.0, min_p=0.2),
    SamplingFilters(2.0, min_p=0.02, top_k=CANDIDATES, top_p=0.7),
    SamplingFilters(1e-4, top_p=0.9),
    SamplingFilters(100.0, top_k=3),
    SamplingFilters(1.0, top_p=1e-4),
]


def _assert_distributed(logits: Floats, sampling: SamplingBatch, tokens: NDArray[np.int64]) -> None:
    """Each number falls into the interval of its token up to rounding; what is dropped is not chosen."""
    weights = kept_weights(logits[None], sampling[:1])[0]
    sums = np.cumsum(weights) / weights.sum()
    assert (weights[tokens] > 0).all()
    uniforms = sampling["uniform"]
    assert (uniforms <= sums[tokens] + ROUNDING).all()
    assert (uniforms >= sums[tokens] - weights[tokens] / weights.sum() - ROUNDING).all()
    exact = choose_tokens(np.tile(logits, (len(sampling), 1)), sampling)
    assert (tokens != exact).sum() <= 2, "more than rounding explains"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_random_tokens_are_those_of_the_definition(shape: str, filters: SamplingFilters) -> None:
    logits, sampling = SHAPES[shape](), _many(filters)
    with np.errstate(over="ignore"):
        _assert_distributed(logits, sampling, _chosen(np.tile(logits, (DRAWS, 1)), sampling))


def test_only_a_row_whose_filters_keep_more_than_the_candidates_crosses_to_the_host() -> None:
    logits = np.stack([SHAPES["all equal"](), SHAPES["peaked"](), SHAPES["broad"](), SHAPES["all equal"]()])
    beyond = [SamplingFilters(1.0, top_p=0.9), SamplingFilters(1.0, top_k=CANDIDATES + 9)]
    within = [SamplingFilters(1.0, top_p=0.9), SamplingFilters(1.0, top_k=CANDIDATES)]
    for filters, copies in ((beyond, 4), (within, 1)):
        order = logits if copies > 1 else logits[[1, 2]]
        sampling = sampling_batch((filters[row % 2], 0.1 + 0.2 * row) for row in range(len(order)))
        rows = np.arange(len(order), dtype=np.int32)
        found, num_copies = _output(order, TokenChoices(rows, sampling, VOCAB))
        assert num_copies == copies
        assert found.tokens.tolist() == choose_tokens(order, sampling).tolist()


@pytest.mark.parametrize("filters", [GREEDY, SamplingFilters(), SamplingFilters(0.7, 0.1, 5, 0.9)], ids=str)
def test_rows_that_are_no_numbers_have_no_token_and_harm_no_other(filters: SamplingFilters) -> None:
    logits = np.tile(SHAPES["broad"](), (7, 1))
    logits[1, 5], logits[2, 900], logits[3], logits[4] = np.nan, np.inf, -np.inf, np.nan
    logits[5] = np.where(np.arange(VOCAB) == 77, np.float32(3), np.float32(-np.inf))
    sampling = sampling_batch((filters, 0.4) for _ in logits)
    with np.errstate(invalid="ignore"):
        expected = choose_tokens(logits, sampling)
        tokens = _chosen(logits, sampling)
    assert (tokens[1:5] == NO_TOKEN).all()
    assert tokens.tolist() == expected.tolist()
    assert (tokens[5], tokens[0], tokens[6]) == (77, tokens[6], tokens[0])


def test_of_equal_logits_greedy_takes_the_first() -> None:
    logits = np.zeros((40, VOCAB), np.float32)
    first = np.random.default_rng(1).integers(0, VOCAB - 1, 40)
    for row, begin in zip(logits, first, strict=True):
        row[begin::3] = 1
    sampling = sampling_batch((GREEDY, 0.0) for _ in first)
    assert _chosen(logits, sampling).tolist() == first.tolist()


def test_more_rows_than_are_sampled_at_once_are_in_order() -> None:
    """Host, greedy and random rows in any order, in one copy."""
    rows = 200
    logits = np.random.default_rng(2).normal(0, 3, (rows, 64)).astype(np.float32)
    kinds = np.random.default_rng(3).integers(0, 3, rows)
    places = np.flatnonzero(kinds).astype(np.int32)
    filters = (GREEDY, SamplingFilters(0.9, top_k=9, top_p=0.9))
    uniforms = np.random.default_rng(4).random(len(places)).tolist()
    sampling = sampling_batch((filters[kinds[p] - 1], u) for p, u in zip(places, uniforms, strict=True))
    found, copies = _output(logits, TokenChoices(places, sampling, 60))
    assert copies == 1
    np.testing.assert_array_equal(found.logits, logits[kinds == 0])
    assert found.tokens.tolist() == choose_tokens(logits[places][:, :60], sampling).tolist()
