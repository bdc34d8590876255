"""Logits processors against plain loops over the vocabulary; what is rolled back was never accepted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_backend.request.sampling import LogitsProcessor
from ernie_backend.runner.logits_processors import AllowedTokens, BadWords, LogitBias, MinTokens, Penalties

VOCAB = 12
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=30)


@dataclass(frozen=True)
class Rules:
    """What a request may ask for; everything is neutral at first."""

    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed: tuple[int, ...] = tuple(range(VOCAB))
    ending_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logit_bias: dict[int, float] = field(default_factory=dict)
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0

    def processors(self, prompt: list[int]) -> list[LogitsProcessor]:
        """Return all kinds of processors, in the order in which the engine has them."""
        strengths = {
            "repetition": self.repetition,
            "frequency": self.frequency,
            "presence": self.presence,
        }
        return [
            LogitBias(self.logit_bias),
            Penalties(prompt, **strengths),
            AllowedTokens(self.allowed),
            BadWords(self.bad_words),
            MinTokens(self.min_tokens, self.ending_ids),
        ]


def _apply(processors: list[LogitsProcessor]) -> NDArray[np.float32]:
    logits = np.linspace(-3, 4, VOCAB, dtype=np.float32)
    for processor in processors:
        processor.apply(logits)
    return logits


def _accept(processors: list[LogitsProcessor], answer: list[int]) -> None:
    for processor in processors:
        for token in answer:
            processor.accept(token)


def _processed(rules: Rules, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    processors = rules.processors(prompt)
    _accept(processors, answer)
    return _apply(processors)


def _by_the_book(rules: Rules, prompt: list[int], answer: list[int]) -> list[float]:
    """One token after the other, as the formulas say."""
    logits = []
    for token in range(VOCAB):
        logit = -3 + token * 7 / (VOCAB - 1)
        if token not in rules.allowed:
            logit = -np.inf
        for *beginning, last in rules.bad_words:
            if last == token and answer[len(answer) - len(beginning) :] == beginning:
                logit = -np.inf
        if len(answer) < rules.min_tokens and token in rules.ending_ids:
            logit = -np.inf
        logit += rules.logit_bias.get(token, 0)
        if token in prompt or token in answer:
            logit = logit / rules.repetition if logit > 0 else logit * rules.repetition
        logit -= rules.frequency * answer.count(token)
        logit -= rules.presence * (token in answer)
        logits.append(logit)
    return logits


rules = st.builds(
    Rules,
    bad_words=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple)).map(tuple),
    allowed=st.lists(st.integers(0, VOCAB - 1), min_size=1).map(tuple),
    ending_ids=st.lists(st.integers(0, VOCAB - 1), max_size=2).map(tuple),
    min_tokens=st.integers(0, 5),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=16)),
    repetition=st.sampled_from([0.5, 1.0, 1.3]),
    frequency=st.sampled_from([-2.0, 0.0, 0.5]),
    presence=st.sampled_from([-1.0, 0.0, 2.0]),
)


@settings(max_examples=200, deadline=None)
@given(rules, tokens, tokens)
def test_logits_follow_the_formulas(asked: Rules, prompt: list[int], answer: list[int]) -> None:
    expected = np.array(_by_the_book(asked, prompt, answer), np.float32)
    np.testing.assert_allclose(_processed(asked, prompt, answer), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(rules, tokens, tokens, tokens, tokens)
def test_what_is_rolled_back_was_never_accepted(
    asked: Rules, prompt: list[int], answer: list[int], wrong: list[int], right: list[int]
) -> None:
    """Not now, and not in what comes after it."""
    processors = asked.processors(prompt)
    _accept(processors, answer + wrong)
    for processor in processors:
        processor.rollback(len(wrong))
    np.testing.assert_array_equal(_apply(processors), _processed(asked, prompt, answer))
    _accept(processors, right)
    np.testing.assert_array_equal(_apply(processors), _processed(asked, prompt, answer + right))


@pytest.mark.parametrize("repetition", [1e-300, 1e300])
def test_the_strongest_penalties_leave_numbers(repetition: float) -> None:
    asked = Rules(((3,),), repetition=repetition, frequency=2.0, presence=2.0)
    logits = _processed(asked, [0, 3, 11], [1, 1])
    assert np.isneginf(logits).nonzero()[0].tolist() == [3]
    assert np.isfinite(np.delete(logits, 3)).all()


def test_the_prompt_counts_for_repetition_only() -> None:
    plain = _processed(Rules(), [], [])
    penalized = _processed(Rules(repetition=2.0, frequency=1.0, presence=1.0), [0, 11, 11], [])
    assert penalized[0] == plain[0] * 2
    assert penalized[11] == plain[11] / 2
    assert penalized[1:11].tolist() == plain[1:11].tolist()


def test_the_answer_is_counted_token_by_token() -> None:
    asked = Rules(frequency=0.5, presence=0.25)
    difference = _processed(Rules(), [], []) - _processed(asked, [3], [5] * 100 + [6])
    assert difference[[3, 5, 6]].tolist() == [0.0, 50.25, 0.75]


def test_a_bad_word_of_several_tokens_is_held_off_at_its_last() -> None:
    asked = Rules(((1, 2, 3), (4,)))
    assert np.isneginf(_processed(asked, [1, 2], [])).nonzero()[0].tolist() == [4], "the prompt does not count"
    assert np.isneginf(_processed(asked, [], [0, 1, 2])).nonzero()[0].tolist() == [3, 4]
    assert np.isneginf(_processed(asked, [], [1, 2, 0])).nonzero()[0].tolist() == [4]


def test_endings_are_held_off_before_min_tokens() -> None:
    asked = Rules(ending_ids=(2, 7), min_tokens=2)
    for count, held in ((0, [2, 7]), (1, [2, 7]), (2, []), (3, [])):
        assert np.isneginf(_processed(asked, [], [0] * count)).nonzero()[0].tolist() == held
