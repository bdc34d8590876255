"""The choice of tokens by full sorts, in float64: the definition in ``ernie_kernels.choice``, word by word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.choice import ChoiceRows

Weights = NDArray[np.float64]


def kept_weights(logits: NDArray[np.float32], rows: ChoiceRows) -> Weights:
    """Return the weights ``[R, V]`` that temperature and filters leave: at most 1, dropped ones are 0."""
    best = logits.max(axis=1, keepdims=True).astype(np.float64)
    weights: Weights = np.exp((logits - best) / rows.temperatures[:, None])
    weights[weights < rows.min_p[:, None]] = 0
    order = np.argsort(-weights, axis=1, kind="stable")
    heaviest = np.take_along_axis(weights, order, axis=1)
    places = np.arange(logits.shape[1])
    heaviest[(places >= rows.top_k[:, None]) & (rows.top_k[:, None] > 0)] = 0
    before = np.cumsum(heaviest, axis=1) - heaviest
    mass = rows.top_p[:, None] * heaviest.sum(axis=1, keepdims=True)
    heaviest[(before >= mass) & (places > 0) & (rows.top_p[:, None] < 1)] = 0
    np.put_along_axis(weights, order, heaviest, axis=1)
    return weights


def choose_tokens(logits: NDArray[np.float32], rows: ChoiceRows) -> NDArray[np.int64]:
    """Return a token for each row of logits ``[R, V]``."""
    sums = np.cumsum(kept_weights(logits, rows), axis=1)
    thresholds = rows.numbers * sums[:, -1]
    # Rounding may lift a threshold onto the total; the last token that has a weight is taken then.
    last = (sums < sums[:, -1:]).sum(axis=1)
    tokens: NDArray[np.int64] = np.minimum((sums <= thresholds[:, None]).sum(axis=1), last)
    return tokens
