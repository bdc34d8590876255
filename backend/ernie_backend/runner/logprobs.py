"""Values of tokens, and of the most likely ones, out of logits: log probabilities or the logits themselves.

Four modes, named as in vLLM and FastDeploy: ``raw_*`` are the model's own, ``processed_*`` those after
penalties, biases, temperature and filters; ``*_logits`` are left as they are, ``*_logprobs`` are their log-
softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_wire.logprobs import LOWEST_LOGPROB

_BLOCK = 256

Values = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredToken:
    """A token's value among those of the vocabulary.

    Attributes:
        token_id, value: the token and its log probability or logit.
        rank: 1 if no token has a larger value, and so on.
        top: the tokens with the largest values and these, largest first; of equals the lower id first.
    """

    token_id: int
    value: float
    rank: int
    top: tuple[tuple[int, float], ...]


def scored_token(logits: Values, token_id: int, num_top: int, *, is_logprob: bool) -> ScoredToken:
    """Return the value and rank of one token.

    Args:
        logits: ``[V]``; -infinity is a probability of zero.
        token_id: the token.
        num_top: how many of the largest to return with it.
        is_logprob: whether values are log probabilities, not logits.
    """
    shift = _log_sum_exp(logits) if is_logprob else 0.0
    top = _largest(logits, min(num_top, len(logits)))
    ids = np.append(top, token_id)
    values = np.maximum(logits[ids].astype(np.float64) - shift, LOWEST_LOGPROB).tolist()
    return ScoredToken(
        token_id=token_id,
        value=values[-1],
        rank=int(np.count_nonzero(logits > logits[token_id])) + 1,
        top=tuple(zip(top.tolist(), values[:-1], strict=True)),
    )


def _log_sum_exp(logits: Values) -> float:
    largest = logits.max()
    return float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))


def _largest(logits: Values, count: int) -> NDArray[np.intp]:
    """Return the indices of the ``count`` largest, largest first.

    The count-th largest of the blocks' maxima is a lower bound of the count-th largest logit, since at least
    ``count`` blocks reach it; few other logits do, and only those are sorted.
    """
    if count == 0:
        return np.empty(0, np.intp)
    num_blocks = -(-len(logits) // _BLOCK)
    maxima = np.maximum.reduceat(logits, np.arange(num_blocks) * _BLOCK)
    bound = np.partition(maxima, -count)[-count] if count <= num_blocks else -np.inf
    candidates = np.flatnonzero(logits >= bound)
    return candidates[np.argsort(-logits[candidates], kind="stable")][:count]
