"""Chooses the next token of every row of logits.

Greedy if temperature or top_p is below 1e-5, or top_k is 1. Otherwise the temperature divides the logits, top_k
keeps the k most likely tokens, top_p the smallest set of the most likely of those whose probability reaches it,
and one uniform number picks a token by the cumulative probabilities. That number comes from the counter-based
generator Philox, keyed by the request's seed and counted by the index of the token in the answer: the same seed
gives the same answer whatever else is in the batch, chunked or preempted. All arithmetic of a row is its own.

This module must not know requests, text or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GREEDY_BELOW = 1e-5
NO_TOKEN = -1
_FLOORS = (0.1, 1e-2, 1e-3, 1e-5, 0.0)


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
    with np.errstate(over="ignore"):  # a logit of -1e38 over a small temperature is a probability of zero
        weights = np.exp((logits - logits.max()) / np.float32(parameters.temperature))
    candidates = _candidates(weights, parameters)
    cumulative = np.cumsum(weights if candidates is None else weights[candidates], dtype=np.float64)
    threshold = uniform(parameters.seed, parameters.index) * cumulative[-1]
    # Rounding may lift the threshold onto the total; the last token that has a probability is taken then.
    last = np.searchsorted(cumulative, cumulative[-1], side="left")
    choice = min(np.searchsorted(cumulative, threshold, side="right"), last)
    return int(choice if candidates is None else candidates[choice])


def _candidates(weights: NDArray[np.float32], parameters: SamplingRow) -> NDArray[np.intp] | None:
    """Return what top_k and then top_p keep, the most likely first; None if they keep all."""
    top_k, top_p = parameters.top_k, parameters.top_p
    if 0 < top_k < len(weights):
        kept = _largest(weights, lambda found: len(found) >= top_k)[:top_k]
        mass = top_p * weights[kept].sum(dtype=np.float64)
    elif top_p < 1:
        mass = top_p * weights.sum(dtype=np.float64)
        kept = _largest(weights, lambda found: bool(weights[found].sum(dtype=np.float64) >= mass))
    else:
        return None
    reached = np.cumsum(weights[kept], dtype=np.float64)
    return kept[: int(np.searchsorted(reached, mass, side="left")) + 1]


def _largest(weights: NDArray[np.float32], is_enough: Callable[[NDArray[np.intp]], bool]) -> NDArray[np.intp]:
    """Return the largest weights that are enough together, largest first; of equals the lower index first.

    The largest weight is 1. A few comparisons of the whole vocabulary leave little to sort: most is small.
    """
    found = np.arange(0)
    for floor in _FLOORS:
        found = np.flatnonzero(weights >= floor)
        if is_enough(found):
            break
    return found[np.argsort(-weights[found], kind="stable")]
