"""Tokens that ``lm_head`` chooses where the logits are: those of the definition, with the same logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import ActivationType, Float32Weight
from ernie_kernels.paddle import PaddleOps
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import (
    GREEDY,
    NO_TOKEN,
    SamplingFilters,
    TokenChoices,
    choose_tokens,
    sampling_batch,
)
from numerics.ops_cases import (
    ISAS,
    WEIGHT_TYPES,
    bits,
    cpu_ops,
    make_weight,
    plain_batch,
    random_floats,
    with_fields,
)

VOCAB, COLUMNS, ROWS, WIDTH = 90, 96, 12, 16
FILTERS = (
    GREEDY,
    SamplingFilters(),
    SamplingFilters(0.5, top_p=0.8),
    SamplingFilters(1.5, top_k=7),
    SamplingFilters(2.0, min_p=0.1, top_k=20, top_p=0.9),
)
OPS: list[Any] = [ReferenceOps(), CpuOps(2), PaddleOps("cpu")]
SLICED = 700
"""Columns of three slices, the last one short (kernels/cpu/head.cpp)."""


def _head(ops: Any, columns: int = COLUMNS) -> Any:
    weights = random_floats(2, columns, WIDTH)
    weights[VOCAB:] *= 20  # padding, which would win otherwise
    return ops.pack_linear(Float32Weight(weights), ActivationType.FLOAT32)


def _hidden(ops: Any, values: NDArray[np.float32]) -> Any:
    return ops.upload_rows(values) if isinstance(ops, PaddleOps) else values


def _choices(places: list[int]) -> TokenChoices:
    uniforms = np.random.default_rng(5).random(len(places)).tolist()
    how = sampling_batch((FILTERS[place % len(FILTERS)], u) for place, u in zip(places, uniforms, strict=True))
    return TokenChoices(np.array(places, np.int32), how, VOCAB)


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
@pytest.mark.parametrize("places", [[], [3], [0, 2, 3, 7], list(range(8))], ids=len)
def test_chosen_rows_leave_a_token_and_the_others_their_logits(ops: Any, places: list[int]) -> None:
    rows = np.array([11, 0, 3, 4, 5, 8, 1, 10], np.int32)
    batch = with_fields(plain_batch(ROWS), logit_rows=rows)
    hidden, head = _hidden(ops, random_floats(1, ROWS, WIDTH)), _head(ops)
    logits = ops.lm_head(hidden, head, ops.upload(batch)).logits
    choices = _choices(places)
    found = ops.lm_head(hidden, head, ops.upload(replace(batch, choices=choices)))
    np.testing.assert_array_equal(found.logits, np.delete(logits, places, axis=0))
    expected = choose_tokens(logits[places][:, :VOCAB], choices.sampling)
    assert found.tokens.tolist() == expected.tolist()


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
def test_a_row_without_a_finite_best_logit_has_no_token(ops: Any) -> None:
    hidden = random_floats(1, ROWS, WIDTH)
    hidden[1], hidden[2, 0], hidden[3] = np.nan, np.inf, 0  # of equals the first
    choices = _choices([0, 1, 2, 3, 4])
    choices.sampling[3] = (*GREEDY, 0.0)
    batch = replace(plain_batch(ROWS), logit_rows=np.arange(5, dtype=np.int32), choices=choices)
    with np.errstate(invalid="ignore"):
        tokens: NDArray[np.int64] = ops.lm_head(_hidden(ops, hidden), _head(ops), ops.upload(batch)).tokens
    assert (tokens == NO_TOKEN).tolist() == [False, True, True, False, False]
    assert tokens[3] == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_greedy_tokens_are_the_first_of_the_largest_logits(isa: str, threads: int) -> None:
    """Equal logits in other slices, minus infinity, NaN, and vocabularies that end in a slice or before one."""
    ops, hidden = CpuOps(threads, isa), random_floats(1, ROWS, WIDTH)
    weights = random_floats(4, SLICED, WIDTH)
    weights[[20, 300, 650]] = 9 * hidden[0]  # of equals the first
    weights[30], weights[400], hidden[3, 0], hidden[4] = -np.inf, np.nan, 0, np.nan
    weights[400, 1:] = 0
    head = ops.pack_linear(Float32Weight(weights), ActivationType.FLOAT32)
    places = np.array([0, 1, 3, 4, 6, 7], np.int32)
    batch = with_fields(plain_batch(ROWS), logit_rows=np.arange(8, dtype=np.int32))
    logits = ops.lm_head(hidden, head, ops.upload(batch)).logits
    for vocab_size in (1, 256, 301, 399, SLICED, SLICED + 1):
        choices = TokenChoices(places, sampling_batch([(GREEDY, 0.0)] * len(places)), vocab_size)
        found = ops.lm_head(hidden, head, ops.upload(replace(batch, choices=choices)))
        np.testing.assert_array_equal(bits(found.logits), bits(np.delete(logits, places, axis=0)))
        expected = choose_tokens(logits[places][:, :vocab_size], choices.sampling)
        assert found.tokens.tolist() == expected.tolist()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "activation"), WEIGHT_TYPES)
def test_greedy_tokens_are_the_same_with_heads_of_every_format(
    isa: str, name: str, activation: ActivationType
) -> None:
    """Slices of a head have their own weights and scales."""
    ops, hidden, width = cpu_ops(isa), random_floats(6, ROWS, 150), 150
    head = ops.pack_linear(make_weight(random_floats(7, SLICED, width), name), activation)
    batch = plain_batch(ROWS)
    logits = ops.lm_head(hidden, head, ops.upload(batch)).logits
    how = sampling_batch([(GREEDY, 0.0)] * ROWS)
    choices = TokenChoices(np.arange(ROWS, dtype=np.int32), how, SLICED)
    found = ops.lm_head(hidden, head, ops.upload(replace(batch, choices=choices)))
    assert found.tokens.tolist() == logits.argmax(axis=1).tolist()
    assert found.tokens.max() >= 2 * 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": np.array([0, 9], np.int32)}, r"choices\.places has 9, expected 0 to 7"),
        ({"places": np.array([3, 0], np.int32)}, r"choices\.places .*must rise"),
        ({"sampling": np.zeros(2)}, r"choices\.sampling is float64"),
        ({"sampling": sampling_batch([(GREEDY, 0.0)])}, r"choices\.sampling .*each of 2 places"),
        ({"vocab_size": 0}, r"vocab_size is 0"),
    ],
)
def test_choices_that_do_not_fit_the_batch_are_refused(changes: dict[str, Any], message: str) -> None:
    batch = with_fields(plain_batch(ROWS), logit_rows=np.arange(8, dtype=np.int32))
    with pytest.raises(ValueError, match=message):
        CpuOps(1).upload(replace(batch, choices=replace(_choices([0, 3]), **changes)))
