"""Chooses the next token of every row of logits.

Greedy if temperature or top_p is below 1e-5, or top_k is 1. Otherwise the temperature divides the logits, top_k
keeps the k most likely tokens, top_p the smallest set of the most likely of those whose probability reaches it,
and one uniform number picks a token by the cumulative probabilities. That number comes from the counter-based
generator Philox, keyed by the request's seed and counted by the index of the token in the answer: the same seed
gives the same answer whatever else is in the batch, chunked or preempted. All arithmetic of a row is its own.

This module must not know requests, text or the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GREEDY_BELOW = 1e-5
NO_TOKEN = -1
_FIRST_CANDIDATES = 256


@dataclass(frozen=True)
class SamplingRow:
    """How the token of one row is chosen; ``index`` counts the tokens of the answer so far."""

    temperature: float
    top_p: float
    top_k: int
    seed: int
    index: int

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW or self.top_p < GREEDY_BELOW or self.top_k == 1


def sample(logits: NDArray[np.float32], rows: Sequence[SamplingRow], vocab_size: int) -> NDArray[np.int64]:
    """Choose a token for each row.

    Args:
        logits: ``[R, V]``.
        rows: R of them.
        vocab_size: tokens of the tokenizer; the columns from there on are padding and never chosen.

    Returns:
        Token ids ``[R]``; ``NO_TOKEN`` where the logits are not numbers.
    """
    logits = logits[:, :vocab_size]
    tokens: NDArray[np.int64] = logits.argmax(axis=1)  # NaN counts as the largest
    best = np.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    tokens[~np.isfinite(best)] = NO_TOKEN
    for row, parameters in enumerate(rows):
        if tokens[row] != NO_TOKEN and not parameters.is_greedy:
            tokens[row] = _sample_row(logits[row], parameters)
    return tokens


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that chooses token ``index`` of an answer with ``seed``."""
    bits = int(np.random.Philox(key=seed, counter=index).random_raw())
    return (bits >> 11) * 2.0**-53


def _sample_row(logits: NDArray[np.float32], parameters: SamplingRow) -> int:
    scaled = (logits.astype(np.float64) - float(logits.max())) / parameters.temperature
    weights = np.exp(scaled)
    if 0 < parameters.top_k < len(weights):
        candidates = _most_likely(weights, parameters.top_k)
        total = float(weights[candidates].sum())
    else:
        candidates = None
        total = float(weights.sum())
    if parameters.top_p < 1:
        candidates = _nucleus(weights, candidates, parameters.top_p * total)
    cumulative = np.cumsum(weights if candidates is None else weights[candidates])
    threshold = uniform(parameters.seed, parameters.index) * cumulative[-1]
    # Rounding may lift the threshold onto the total; the last weight that counts is taken then.
    choice = min(int(np.searchsorted(cumulative, threshold, side="right")), _last_positive(cumulative))
    return choice if candidates is None else int(candidates[choice])


def _last_positive(cumulative: NDArray[np.float64]) -> int:
    return int(np.searchsorted(cumulative, cumulative[-1], side="left"))


def _most_likely(weights: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the ``count`` largest, largest first; of equals the lower index first."""
    if count >= len(weights):
        chosen = np.arange(len(weights))
    else:
        chosen = np.sort(np.argpartition(weights, len(weights) - count)[-count:])
    return chosen[np.argsort(-weights[chosen], kind="stable")]


def _nucleus(
    weights: NDArray[np.float64], candidates: NDArray[np.intp] | None, mass: float
) -> NDArray[np.intp]:
    """Return the smallest set of the largest weights that reaches ``mass``, the sorted ``candidates`` if given.

    Sorting the whole vocabulary is rarely needed: ever more of the largest are looked at until they reach it.
    """
    count = _FIRST_CANDIDATES
    while True:
        sorted_candidates = _most_likely(weights, count) if candidates is None else candidates
        reached = np.cumsum(weights[sorted_candidates])
        if reached[-1] >= mass or len(sorted_candidates) == len(weights) or candidates is not None:
            return sorted_candidates[: int(np.searchsorted(reached, mass, side="left")) + 1]
        count *= 8
