"""Tokens chosen on the device from the logits there: the V floats of a row do not cross to the host.

The definition is ``ernie_kernels.sampling``; here it is in float32, by ops of the KL3 list. Greedy rows are
exact: of equal logits, which are frequent in bfloat16, the first is taken, whatever the device's own argmax
does. The others use the same uniform number as on the host, rounded down to 2^-24: where it falls next to the
border between two tokens, the neighbor may be chosen.

The vocabulary is never sorted: Paddle's argsort for XPUs takes fewer than 16,384 numbers (argsort_kernel.cc at
02c53c2d). Of the ``CANDIDATES`` heaviest tokens only the weights are used: the lightest one that top_k and
top_p keep, and how many of its equals stay, decide over the whole vocabulary, in its order. A row whose filters
keep more than the candidates is sampled on the host, which takes a second copy.

``paddle.tensor.top_p_sampling`` is not used: on an XPU it draws a number of its own from the seed, for which it
copies the seeds to the host and waits, and it has neither top_k nor min_p (top_p_sampling_kernel.cc at
0ab6998c).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch
from ernie_kernels.paddle.place import Tensor, paddle
from ernie_kernels.sampling import NO_TOKEN, HeadOutput, SamplingBatch, sample_tokens

CANDIDATES = 1024
"""How many of a row's heaviest tokens its filters may keep on the device."""
_MOST_ROWS = 64
"""Rows that are sampled at once: a vocabulary of 103,424 takes about 0.25 GiB for temporary arrays."""
_UNDECIDED = -2
_FRACTION = 2.0**24
"""Parameters travel with the step's integers, as whole numbers and fractions in units of 2^-24."""
_SMALLEST_WEIGHT = 1e-35
"""Smaller ones are 0: Paddle's exp of -infinity need not be."""


@dataclass(frozen=True)
class RowOrder:
    """The logit rows of a step in the order in which the device has them.

    Attributes:
        rows: int32 ``[R]``, ``Batch.logit_rows``: for the host, then greedy, then random ones.
        num_host: of the first kind.
        num_greedy: of the second kind.
        places: of each chosen row among the batch's ``choices``.
        sampling: of the random rows, ``[N]``.
        vocab_size: columns that may be chosen.
    """

    rows: NDArray[np.int32]
    num_host: int
    num_greedy: int
    places: NDArray[np.intp]
    sampling: SamplingBatch
    vocab_size: int

    @classmethod
    def of(cls, batch: Batch) -> RowOrder:
        """Sort the rows of a batch."""
        choices, rows = batch.choices, batch.logit_rows
        if choices is None:
            return cls(rows, len(rows), 0, np.zeros(0, np.intp), np.zeros(0, np.void), 0)
        is_random = choices.sampling["temperature"] > 0
        places = np.argsort(is_random, kind="stable")
        num_random = int(is_random.sum())
        return cls(
            rows=np.concatenate([np.delete(rows, choices.places), rows[choices.places[places]]]),
            num_host=len(rows) - len(places),
            num_greedy=len(places) - num_random,
            places=places,
            sampling=choices.sampling[is_random],
            vocab_size=choices.vocab_size,
        )

    @property
    def parameters(self) -> NDArray[np.int32]:
        """The parameters of the random rows, ``[12, N]``."""
        return _integers(self.sampling, self.vocab_size)


def head_output(logits: Tensor, order: RowOrder, parameters: Tensor | None) -> HeadOutput:
    """Choose tokens; bring them and the logits of all other rows to the host, in one copy.

    Args:
        logits: ``[R, V]``, in the order of the rows.
        order: of the rows.
        parameters: of the random rows, on the device; None: there are none.
    """
    num_columns = logits.shape[1]
    parts = [logits[: order.num_host].astype("float32").reshape((-1,))] if order.num_host else []
    if len(order.places):
        chosen = logits[order.num_host :, : order.vocab_size].astype("float32")
        parts += _tokens(chosen, order, parameters)
    copied: NDArray[np.float32] = (parts[0] if len(parts) == 1 else paddle.concat(parts)).numpy()
    values, in_order = np.split(copied, [order.num_host * num_columns])
    found = in_order.astype(np.int64)
    for row in np.flatnonzero(found == _UNDECIDED):
        index = row - order.num_greedy
        found[row] = sample_tokens(chosen[int(row)].numpy()[None], order.sampling[index : index + 1])[0]
    tokens = np.empty(len(found), np.int64)
    tokens[order.places] = found
    return HeadOutput(values.reshape(order.num_host, num_columns), tokens)


def _tokens(chosen: Tensor, order: RowOrder, parameters: Tensor | None) -> list[Tensor]:
    """Return the tokens of the chosen rows ``[C, V]``, in parts."""
    parts = [_greedy_tokens(chosen[: order.num_greedy])] if order.num_greedy else []
    if parameters is not None:
        random = chosen[order.num_greedy :]
        has_filters = not _is_free(order.sampling).all()
        for begin in range(0, len(order.sampling), _MOST_ROWS):
            block = slice(begin, begin + _MOST_ROWS)
            parts.append(_random_tokens(random[block], parameters[:, block], has_filters=has_filters))
    return parts


def _is_free(sampling: SamplingBatch) -> NDArray[np.bool_]:
    """Return which rows have neither top_k nor top_p."""
    is_free: NDArray[np.bool_] = (sampling["top_k"] <= 0) & (sampling["top_p"] >= 1)
    return is_free


def _integers(sampling: SamplingBatch, vocab_size: int) -> NDArray[np.int32]:
    """Return the parameters of random rows, ``[12, N]``.

    Four numbers, their whole parts before their fractions: 1 / temperature, min_p, top_p (2 for none) and the
    uniform one. Then what ``_filtered`` takes: how many candidates top_k keeps, whether there is a top_k,
    whether there is no filter, and whether the candidates are certain to decide the row.
    """
    smallest, largest = 1 / _FRACTION, 2.0**30  # not 0, which times -infinity would be NaN; an int32
    inverse = np.clip(1 / sampling["temperature"].astype(np.float64), smallest, largest)
    top_p = np.where(sampling["top_p"] < 1, np.maximum(sampling["top_p"], smallest), 2)
    numbers = np.stack([inverse, sampling["min_p"], top_p, sampling["uniform"]])
    whole, top_k, is_free = np.floor(numbers), sampling["top_k"], _is_free(sampling)
    count = min(CANDIDATES, vocab_size)
    has_k = top_k > 0
    is_decided = is_free | (has_k & (top_k <= count)) | (count == vocab_size)
    limit = np.where(has_k, np.minimum(top_k, count), count)
    rows = [*whole, *np.floor((numbers - whole) * _FRACTION), limit, has_k, is_free, is_decided]
    return np.stack([row.astype(np.int32) for row in rows])


def _greedy_tokens(x: Tensor) -> Tensor:
    """Return the first of the largest of each row, float32 ``[N]``; or ``NO_TOKEN``."""
    best, is_valid = _best(x)
    return _checked(_first(_mask(x >= best), _ids(x)), is_valid)


def _random_tokens(x: Tensor, parameters: Tensor, *, has_filters: bool) -> Tensor:
    """Return a token for each row, float32 ``[N]``; or ``NO_TOKEN``, or ``_UNDECIDED``.

    In masks, 1 is true: a product is "and", a maximum is "or".
    """
    values = parameters.astype("float32")
    numbers = values[:4] + values[4:8] * (1 / _FRACTION)
    inverse_temperature, min_p, top_p, uniform = (numbers[row].unsqueeze(-1) for row in range(4))
    best, is_valid = _best(x)
    weights = paddle.exp((x - best) * inverse_temperature)
    weights = weights * _mask(weights >= min_p + _SMALLEST_WEIGHT)
    is_decided, ids = None, _ids(x)
    if has_filters:
        weights, is_decided = _filtered(weights, ids, top_p, values[8:])
    sums = paddle.cumsum(weights, axis=1)
    is_kept = _mask(weights > 0)
    # Rounding may lift a threshold onto the total, and a sum made of blocks below the one before it: only
    # what is kept is taken.
    last = paddle.max(is_kept * ids, axis=1)
    tokens = paddle.minimum(_first(is_kept * _mask(sums > uniform * sums[:, -1:]), ids), last)
    if is_decided is not None:
        tokens = (tokens - _UNDECIDED) * is_decided.squeeze(-1) + _UNDECIDED
    return _checked(tokens, is_valid)


def _filtered(weights: Tensor, ids: Tensor, top_p: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights that top_k and then top_p keep; and which rows ``[N, 1]`` the candidates decide."""
    limit, has_k, is_free, is_certain = (filters[row].unsqueeze(-1) for row in range(4))
    count = min(CANDIDATES, weights.shape[1])
    heaviest, _ = paddle.topk(weights, count, axis=1)
    is_within = _mask(ids[:, :count] < limit)
    candidates = heaviest * is_within
    of_all, of_limit = (each.sum(axis=1, keepdim=True) for each in (weights, candidates))
    mass = top_p * (of_all + has_k * (of_limit - of_all))
    # The heaviest always stays: there is no mass before it.
    is_kept = is_within * _mask(paddle.cumsum(candidates, axis=1) - candidates < mass)
    lightest = paddle.min(heaviest + paddle.scale(is_kept, -2.0, 2.0), axis=1, keepdim=True)
    num_equals = (is_kept * _mask(heaviest == lightest)).sum(axis=1, keepdim=True)
    is_equal = _mask(weights == lightest)
    is_first = _mask(paddle.cumsum(is_equal, axis=1) <= num_equals)
    stays = paddle.maximum(_mask(weights > lightest), is_equal * is_first)
    is_decided = paddle.maximum(1 - is_kept[:, -1:], is_certain)
    return weights * paddle.maximum(stays, is_free), is_decided


def _best(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each row ``[N, 1]``, and whether the row has it and no NaN, ``[N]``."""
    best = paddle.max(x, axis=1, keepdim=True)
    has_nan = paddle.any(paddle.isnan(x), axis=1)
    return best, _mask(paddle.isfinite(best.squeeze(-1))) * (1 - _mask(has_nan))


def _checked(tokens: Tensor, is_valid: Tensor) -> Tensor:
    return (tokens - NO_TOKEN) * is_valid + NO_TOKEN


def _first(mask: Tensor, ids: Tensor) -> Tensor:
    """Return the first place of each row whose mask is 1; V if there is none."""
    size = float(mask.shape[1])
    return paddle.min(ids + paddle.scale(mask, -size, size), axis=1)


def _ids(x: Tensor) -> Tensor:
    """Return 0, 1, ... below V, ``[1, V]``: float32 has all integers up to 2^24."""
    return paddle.arange(x.shape[1], dtype="float32").unsqueeze(0)


def _mask(condition: Tensor) -> Tensor:
    return condition.astype("float32")
