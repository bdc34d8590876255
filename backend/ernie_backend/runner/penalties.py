"""Penalties on tokens that a request has already: repetition, frequency, presence.

    logit > 0: logit / repetition, else logit * repetition     for tokens of the prompt or the answer
    logit - frequency * (times in the answer)                  for tokens of the answer
    logit - presence                                           for tokens of the answer

in this order: the formulas of FastDeploy, vLLM and (repetition) of Hugging Face. What a request has is counted
token by token, so that a step costs as much as the request has different tokens. This module must not know
requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class PenaltyStrengths:
    """How strong the penalties are; the defaults are neutral."""

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0

    @property
    def are_neutral(self) -> bool:
        """Whether they change nothing."""
        return self == PenaltyStrengths()


class Penalties:
    """The penalties of one request.

    Args:
        strengths: how strong they are.
        prompt_ids: tokens of the prompt.
        vocab_size: tokens from there on are never chosen, and are left out.
    """

    def __init__(self, strengths: PenaltyStrengths, prompt_ids: Iterable[int], vocab_size: int) -> None:
        known = (
            np.unique(np.fromiter(prompt_ids, np.int64)) if strengths.repetition != 1 else np.empty(0, np.int64)
        )
        known = known[known < vocab_size]
        self._strengths = strengths
        self._count = len(known)
        self._token_ids = known
        self._times = np.zeros(len(known), np.float32)
        self._places = dict(zip(known.tolist(), range(len(known)), strict=True))

    def add(self, token_id: int) -> None:
        """Count a token of the answer."""
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

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change the finite logits ``[V]`` in place; they stay finite, however strong the penalties are."""
        token_ids, times = self._token_ids[: self._count], self._times[: self._count]
        values = logits[token_ids].astype(np.float64)
        repetition = self._strengths.repetition
        with np.errstate(over="ignore"):
            values = np.where(values > 0, values / repetition, values * repetition)
        values -= self._strengths.frequency * times
        values -= self._strengths.presence * (times > 0)
        logits[token_ids] = np.clip(values, -_LARGEST, _LARGEST)
