"""What a request changes in its logits before a token is chosen.

Each kind is a ``LogitsProcessor``; a request has those that change anything, in the order of this file: the
bias, the penalties, then the tokens that may not come, whose logit becomes -infinity. vLLM and FastDeploy begin
with the last, which gives the same. Temperature and the filters follow (``ernie_kernels.sampling``).

Token ids are below the width V of the logits, which end before the padding of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

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

    in this order: the formulas of FastDeploy, vLLM and (repetition) of Hugging Face. What a request has is
    counted token by token, so that a step costs as much as the request has different tokens.

    Args:
        prompt_ids: tokens of the prompt.
        repetition, frequency, presence: how strong they are; the defaults are neutral.
    """

    def __init__(
        self,
        prompt_ids: Iterable[int],
        *,
        repetition: float = 1.0,
        frequency: float = 0.0,
        presence: float = 0.0,
    ) -> None:
        known = np.unique(np.fromiter(prompt_ids, np.int64)) if repetition != 1 else np.empty(0, np.int64)
        self._strengths = (repetition, frequency, presence)
        self._count = self._num_prompt = len(known)
        self._token_ids = known
        self._times = np.zeros(len(known), np.float32)
        self._places = dict(zip(known.tolist(), range(len(known)), strict=True))
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
        """Count the last tokens of the answer no more."""
        for _ in range(num_tokens):
            token_id = self._answer.pop()
            place = self._places[token_id]
            self._times[place] -= 1
            # Places are given in the order of first occurrence, so the one that becomes empty is the last.
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


class BadWords:
    """Holds off tokens, and sequences of tokens at their last.

    The last token of a sequence may not come where the answer ends with those before it.
    """

    def __init__(self, words: Iterable[tuple[int, ...]]) -> None:
        known = sorted(set(words))
        self._banned = np.array([word[0] for word in known if len(word) == 1], np.int64)
        self._phrases = [(list(word[:-1]), word[-1]) for word in known if len(word) > 1]
        self._answer: list[int] = []

    def accept(self, token_id: int) -> None:
        """Remember a token of the answer."""
        self._answer.append(token_id)

    def rollback(self, num_tokens: int) -> None:
        """Forget the last tokens of the answer."""
        del self._answer[len(self._answer) - num_tokens :]

    def apply(self, logits: Logits) -> None:
        """Keep the tokens from being chosen."""
        logits[self._banned] = -np.inf
        for beginning, last in self._phrases:
            if self._answer[-len(beginning) :] == beginning:
                logits[last] = -np.inf


class MinTokens:
    """Holds off the tokens that would end the answer, until it has ``min_tokens``."""

    def __init__(self, min_tokens: int, ending_ids: Iterable[int]) -> None:
        self._num_missing = min_tokens
        self._ending = np.array(sorted(ending_ids), np.int64)

    def accept(self, _token_id: int) -> None:
        """Count a token of the answer."""
        self._num_missing -= 1

    def rollback(self, num_tokens: int) -> None:
        """Count the last tokens of the answer no more."""
        self._num_missing += num_tokens

    def apply(self, logits: Logits) -> None:
        """Keep the tokens from being chosen as long as some are missing."""
        if self._num_missing > 0:
            logits[self._ending] = -np.inf
