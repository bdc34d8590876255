"""Logits processors: what a request changes in its logits before a token is chosen.

A request has those that change anything, in the order of this file: the bias, the penalties, then the excluded
tokens, whose logit becomes -infinity. vLLM and FastDeploy begin with these, which gives the same. Last come the
tokens that are forced.
Temperature and the filters follow (``ernie_kernels.sampling``).

``accept`` and ``rollback`` keep the state of the answer: after ``rollback(n)`` a processor is as it was before
the last n calls of ``accept``. Token ids are below the width V of the logits, which excludes the padding of the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.reasoning import ReasoningTracker

Logits = NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)


class LogitBias:
    """Adds a number to the logits of some tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._token_ids = np.fromiter(bias, np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))

    def accept(self, _token_id: int) -> None:
        """Do nothing: the bias does not depend on the answer."""

    def rollback(self, _num_tokens: int) -> None:
        """Do nothing."""

    def apply(self, logits: Logits) -> None:
        """Add the bias."""
        logits[self._token_ids] += self._bias


class Penalties:
    """Penalties on tokens that a request has already: repetition, frequency, presence.

        logit > 0: logit / repetition, else logit * repetition     for tokens of the prompt or the answer
        logit - frequency * (times in the answer)                  for tokens of the answer
        logit - presence                                           for tokens of the answer

    in this order: the formulas of FastDeploy and vLLM; repetition is that of CTRL (Keskar et al., 2019), as in
    Hugging Face. Tokens are counted as they come, so a step costs as much as the request has different tokens.

    Args:
        prompt_ids: tokens of the prompt.
        repetition, frequency, presence: strengths; the defaults are neutral.
    """

    def __init__(
        self,
        prompt_ids: Iterable[int],
        *,
        repetition: float = 1.0,
        frequency: float = 0.0,
        presence: float = 0.0,
    ) -> None:
        # ``_token_ids[p]`` is the token in place p, ``_times[p]`` its count in the answer, ``_places`` the
        # inverse. The first ``_num_prompt`` places are the prompt's; the arrays grow ahead of ``_count``.
        in_prompt = np.unique(np.fromiter(prompt_ids, np.int64)) if repetition != 1 else np.empty(0, np.int64)
        self._strengths = (repetition, frequency, presence)
        self._count = self._num_prompt = len(in_prompt)
        self._token_ids = in_prompt
        self._times = np.zeros(len(in_prompt), np.float32)
        self._places = dict(zip(in_prompt.tolist(), range(len(in_prompt)), strict=True))
        self._answer: list[int] = []

    def accept(self, token_id: int) -> None:
        """Count a token of the answer."""
        self._answer.append(token_id)
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = self._count
            if place == len(self._token_ids):
                more = max(16, place)
                self._token_ids = np.concatenate((self._token_ids, np.zeros(more, np.int64)))
                self._times = np.concatenate((self._times, np.zeros(more, np.float32)))
            self._token_ids[place] = token_id
            self._count += 1
        self._times[place] += 1

    def rollback(self, num_tokens: int) -> None:
        """Uncount the last tokens of the answer."""
        for _ in range(num_tokens):
            token_id = self._answer.pop()
            place = self._places[token_id]
            self._times[place] -= 1
            # Places are in the order of first occurrence and tokens are undone newest first, so a place that
            # becomes empty is the last one.
            if place >= self._num_prompt and not self._times[place]:
                del self._places[token_id]
                self._count -= 1

    def apply(self, logits: Logits) -> None:
        """Change the finite logits; they stay finite, however strong the penalties are."""
        repetition, frequency, presence = self._strengths
        token_ids, times = self._token_ids[: self._count], self._times[: self._count]
        values = logits[token_ids].astype(np.float64)
        with np.errstate(over="ignore"):
            values = np.where(values > 0, values / repetition, values * repetition)
        values -= frequency * times
        values -= presence * (times > 0)
        logits[token_ids] = np.clip(values, -_LARGEST, _LARGEST)


class AllowedTokens:
    """Excludes all other tokens."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        self._token_ids = np.array(sorted(token_ids), np.int64)

    def accept(self, _token_id: int) -> None:
        """Do nothing: the same tokens are allowed everywhere in the answer."""

    def rollback(self, _num_tokens: int) -> None:
        """Do nothing."""

    def apply(self, logits: Logits) -> None:
        """Exclude the other tokens."""
        allowed = logits[self._token_ids]
        logits.fill(-np.inf)
        logits[self._token_ids] = allowed


class BadWords:
    """Excludes tokens, and the last token of a phrase where the answer ends with the tokens before it.

    A phrase is matched in the answer only, not across its border with the prompt.
    """

    def __init__(self, words: Iterable[tuple[int, ...]]) -> None:
        unique = sorted(set(words))
        self._banned = np.array([word[0] for word in unique if len(word) == 1], np.int64)
        self._phrases = [(list(word[:-1]), word[-1]) for word in unique if len(word) > 1]
        self._answer: list[int] = []

    def accept(self, token_id: int) -> None:
        """Remember a token of the answer."""
        self._answer.append(token_id)

    def rollback(self, num_tokens: int) -> None:
        """Forget the last tokens of the answer."""
        del self._answer[len(self._answer) - num_tokens :]

    def apply(self, logits: Logits) -> None:
        """Exclude the tokens."""
        logits[self._banned] = -np.inf
        for beginning, last in self._phrases:
            if self._answer[-len(beginning) :] == beginning:
                logits[last] = -np.inf


class MinTokens:
    """Excludes the tokens that would end the answer, until it has ``min_tokens``."""

    def __init__(self, min_tokens: int, ending_ids: Iterable[int]) -> None:
        self._num_missing = min_tokens
        self._ending = np.array(sorted(ending_ids), np.int64)

    def accept(self, _token_id: int) -> None:
        """Count a token of the answer."""
        self._num_missing -= 1

    def rollback(self, num_tokens: int) -> None:
        """Uncount the last tokens of the answer."""
        self._num_missing += num_tokens

    def apply(self, logits: Logits) -> None:
        """Exclude the tokens while the answer is too short."""
        if self._num_missing > 0:
            logits[self._ending] = -np.inf


class ReasoningBudget:
    """Closes thinking that is too long: forces the tokens that close it, whatever else excludes them.

    Args:
        tracker: follows the answer; this object's own.
        max_tokens: of thinking, before the closing.
        closing_ids: the closing: it has ``</think>``, and may have tokens before and after it.
    """

    def __init__(self, tracker: ReasoningTracker, max_tokens: int, closing_ids: Sequence[int]) -> None:
        self._tracker = tracker
        self._max_tokens = max_tokens
        self._closing_ids = closing_ids
        self._places = [0]  # how many tokens of the closing were forced, at first and after each token

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer."""
        self._places.append(self._places[-1] + 1 if token_id == self._forced_id() else 0)
        self._tracker.accept(token_id)

    def rollback(self, num_tokens: int) -> None:
        """Forget the last tokens of the answer."""
        del self._places[len(self._places) - num_tokens :]
        self._tracker.rollback(num_tokens)

    def apply(self, logits: Logits) -> None:
        """Exclude all tokens but the next one of the closing, if thinking is too long."""
        forced_id = self._forced_id()
        if forced_id is not None:
            logit = logits[forced_id]
            logits.fill(-np.inf)
            logits[forced_id] = 0.0 if np.isneginf(logit) else logit

    def _forced_id(self) -> int | None:
        place, tracker = self._places[-1], self._tracker
        if 0 < place < len(self._closing_ids):
            return self._closing_ids[place]
        is_too_long = tracker.is_thinking and tracker.num_reasoning_tokens >= self._max_tokens
        return self._closing_ids[0] if is_too_long else None
