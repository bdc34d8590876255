"""Edits of logits against plain loops over the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_backend.runner.logit_edits import EditRules, LogitEdits
from ernie_backend.runner.penalties import PenaltyStrengths

VOCAB = 12
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=30)


def _edit(rules: EditRules, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    logits = np.linspace(-3, 4, VOCAB, dtype=np.float32)
    edits = LogitEdits(rules, prompt, VOCAB)
    for token in answer:
        edits.add(token)
    edits.apply(logits)
    return logits


def _by_the_book(rules: EditRules, prompt: list[int], answer: list[int]) -> list[float]:
    """One token after the other, as the formulas say."""
    edited = []
    for token in range(VOCAB):
        logit = -3 + token * 7 / (VOCAB - 1)
        for *beginning, last in rules.bad_words:
            if last == token and answer[len(answer) - len(beginning) :] == beginning:
                logit = -np.inf
        if len(answer) < rules.min_tokens and token in rules.ending_ids:
            logit = -np.inf
        logit += rules.logit_bias.get(token, 0)
        if token in prompt or token in answer:
            strength = rules.penalties.repetition
            logit = logit / strength if logit > 0 else logit * strength
        logit -= rules.penalties.frequency * answer.count(token)
        logit -= rules.penalties.presence * (token in answer)
        edited.append(logit)
    return edited


rules = st.builds(
    EditRules,
    bad_words=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple)).map(tuple),
    ending_ids=st.lists(st.integers(0, VOCAB - 1), max_size=2).map(tuple),
    min_tokens=st.integers(0, 5),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=16)),
    penalties=st.builds(
        PenaltyStrengths,
        st.sampled_from([0.5, 1.0, 1.3]),
        st.sampled_from([-2.0, 0.0, 0.5]),
        st.sampled_from([-1.0, 0.0, 2.0]),
    ),
)


@settings(max_examples=200, deadline=None)
@given(rules, tokens, tokens)
def test_edits_follow_the_formulas(asked: EditRules, prompt: list[int], answer: list[int]) -> None:
    expected = np.array(_by_the_book(asked, prompt, answer), np.float32)
    np.testing.assert_allclose(_edit(asked, prompt, answer), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("repetition", [1e-300, 1e300])
def test_the_strongest_penalties_leave_numbers(repetition: float) -> None:
    strengths = PenaltyStrengths(repetition, 2.0, 2.0)
    logits = _edit(EditRules(penalties=strengths, bad_words=((3,),)), [0, 3, 11], [1, 1])
    assert np.isneginf(logits).nonzero()[0].tolist() == [3]
    assert np.isfinite(np.delete(logits, 3)).all()


def test_the_prompt_counts_for_repetition_only() -> None:
    plain = _edit(EditRules(), [], [])
    penalized = _edit(EditRules(penalties=PenaltyStrengths(2.0, 1.0, 1.0)), [0, 11, 11], [])
    assert penalized[0] == plain[0] * 2
    assert penalized[11] == plain[11] / 2
    assert penalized[1:11].tolist() == plain[1:11].tolist()


def test_the_answer_is_counted_token_by_token() -> None:
    strengths = PenaltyStrengths(frequency=0.5, presence=0.25)
    difference = _edit(EditRules(), [], []) - _edit(EditRules(penalties=strengths), [3], [5] * 100 + [6])
    assert difference[[3, 5, 6]].tolist() == [0.0, 50.25, 0.75]


def test_a_bad_word_of_several_tokens_is_held_off_at_its_last() -> None:
    asked = EditRules(bad_words=((1, 2, 3), (4,)))
    assert np.isneginf(_edit(asked, [1, 2], [])).nonzero()[0].tolist() == [4], "the prompt does not count"
    assert np.isneginf(_edit(asked, [], [0, 1, 2])).nonzero()[0].tolist() == [3, 4]
    assert np.isneginf(_edit(asked, [], [1, 2, 0])).nonzero()[0].tolist() == [4]


def test_endings_are_held_off_before_min_tokens() -> None:
    asked = EditRules(ending_ids=(2, 7), min_tokens=2)
    for count, held in ((0, [2, 7]), (1, [2, 7]), (2, []), (3, [])):
        assert np.isneginf(_edit(asked, [], [0] * count)).nonzero()[0].tolist() == held


@pytest.mark.parametrize(
    "asked",
    [
        EditRules(),
        EditRules(ending_ids=(1,)),
        EditRules(bad_words=((VOCAB,), (0, VOCAB))),
        EditRules(logit_bias={VOCAB + 1: 5.0}),
    ],
    ids=str,
)
def test_rules_that_change_nothing_are_empty(asked: EditRules) -> None:
    assert LogitEdits(asked, [0, VOCAB + 5], VOCAB).are_empty


def test_tokens_beyond_the_vocabulary_are_left_out() -> None:
    asked = EditRules(((0,), (VOCAB,)), (VOCAB + 1,), 3, {VOCAB: 1.0}, PenaltyStrengths(2.0))
    edits = LogitEdits(asked, [1, VOCAB + 2], VOCAB)
    assert edits.num_excluded == 1
    logits = np.ones(VOCAB, np.float32)
    edits.apply(logits)
    assert logits[:3].tolist() == [-np.inf, 0.5, 1.0]
