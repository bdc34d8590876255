"""Log probabilities, ranks and top tokens against float64 by full sorts; the four modes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.logits_processors import LogitBias
from ernie_backend.runner.logprobs import scored_token
from ernie_backend.runner.sampler import Sampler
from ernie_backend.runner.sampling_rows import SamplingRow
from ernie_backend.settings.engine_settings import LOGPROBS_MODES
from ernie_kernels.reference import ReferenceOps
from ernie_wire.logprobs import LOWEST_LOGPROB
from fakes.sequences import sampled_sequence


def _exact(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max()
    exact: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return exact


@pytest.mark.parametrize("width", [1, 5, 256, 257, 1000, 103424])
@pytest.mark.parametrize("spread", [0.0, 1.0, 40.0])
def test_values_ranks_and_tops_are_exact(width: int, spread: float) -> None:
    generator = np.random.default_rng(width)
    logits = generator.normal(0, spread, width).astype(np.float32)
    exact, order = _exact(logits), np.argsort(-logits, kind="stable")
    for num_top in (0, 1, 20, width if width <= 1000 else 1000):
        token = int(generator.integers(width))
        scored = scored_token(logits, token, num_top, is_logprob=True)
        expected = order[:num_top].tolist()
        assert [each for each, _ in scored.top] == expected
        np.testing.assert_allclose([value for _, value in scored.top], exact[expected], atol=1e-4)
        assert scored.value == pytest.approx(exact[token], abs=1e-4)
        assert scored.rank == 1 + int((logits > logits[token]).sum())


def test_a_probability_of_zero_has_a_number() -> None:
    logits = np.array([0.0, -np.inf, -np.inf], np.float32)
    scored = scored_token(logits, 1, 3, is_logprob=True)
    assert (scored.value, scored.rank) == (LOWEST_LOGPROB, 2)
    assert scored.top == ((0, 0.0), (1, LOWEST_LOGPROB), (2, LOWEST_LOGPROB))


def _first(mode: str, row: Sequence, logits: list[float]) -> dict[int, float]:
    sampler = Sampler(ReferenceOps(), len(logits), mode)
    scored = sampler.sample(np.array([logits], np.float32), [SamplingRow(row)])[0].scored
    assert scored is not None
    return dict(scored.top)


def test_the_four_modes() -> None:
    row = sampled_sequence(0.5, top_k=2, processors=(LogitBias({3: 8.0}),), logprobs=4)
    logits = [2.0, 1.0, 0.0, -5.0]
    found = {mode: _first(mode, row, logits) for mode in LOGPROBS_MODES}
    assert found["raw_logits"] == {0: 2.0, 1: 1.0, 2: 0.0, 3: -5.0}
    assert found["raw_logprobs"] == pytest.approx(
        dict(enumerate(_exact(np.array(logits, np.float32)))), abs=1e-4
    )
    assert found["processed_logits"] == {3: 6.0, 0: 4.0, 1: LOWEST_LOGPROB, 2: LOWEST_LOGPROB}
    two = _exact(np.array([6.0, 4.0], np.float32))
    expected = {3: two[0], 0: two[1], 1: LOWEST_LOGPROB, 2: LOWEST_LOGPROB}
    assert found["processed_logprobs"] == pytest.approx(expected, abs=1e-4)


def test_greedy_rows_have_neither_temperature_nor_filters() -> None:
    row = sampled_sequence(0.0, top_p=0.5, top_k=1, logprobs=2)
    assert _first("processed_logits", row, [2.0, 1.0]) == {0: 2.0, 1: 1.0}


def test_none_are_made_unless_asked_for_and_none_of_no_numbers() -> None:
    sampler = Sampler(ReferenceOps(), 2)
    logits = np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32)
    rows = [SamplingRow(sampled_sequence(0.0)), SamplingRow(sampled_sequence(0.0, logprobs=1))]
    assert [each.scored for each in sampler.sample(logits, rows)] == [None, None]


def test_prompts_are_ranked_without_padding() -> None:
    sampler = Sampler(ReferenceOps(), 3)
    logits = np.array([[1.0, 2.0, 0.0, 9.0, 9.0], [0.0, 0.0, 0.0, 9.0, 9.0]], np.float32)
    first, second = sampler.score_prompt(logits, (0, 3), 2)
    exact = _exact(logits[0, :3])
    assert (first.token_id, first.rank) == (0, 2)
    assert first.value == pytest.approx(exact[0], abs=1e-4)
    assert [token for token, _ in first.top] == [1, 0]
    assert (second.value, second.rank) == (LOWEST_LOGPROB, 4), "a token that the tokenizer does not have"
