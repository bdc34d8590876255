"""How a token is chosen from each row of logits, as pure NumPy functions: the golden model of every sampler.

A row's temperature divides its logits, whose exponentials are its weights. Then, in this order:

    min_p    drops tokens whose weight is below this part of the largest;
    top_k    keeps the k heaviest, of equals those with the lower index; 0 or less keeps all;
    top_p    keeps the fewest of the heaviest that together have at least this part of the weight left.

The row's uniform number u in [0, 1) chooses among what is left: the token at which the sum of the weights, in
the order of the vocabulary, exceeds u times their total. A temperature of 0 is greedy: the largest logit, of
equals the first. Every row is computed alone: it does not depend on the others.

Where nothing else is needed of a row's logits, they need not leave the device: ``TokenChoices`` says
of which rows the backend chooses the token itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
TokenMasks = NDArray[np.uint32]
"""Which tokens may be chosen, ``[M, W]``: t if bit t % 32, counted from the lowest, of item t // 32 is 1."""
Weights = NDArray[np.float64]
Tokens = NDArray[np.int64]

NO_TOKEN = -1
"""In place of a token: the largest logit of the row is not finite."""


class SamplingFilters(NamedTuple):
    """A row's temperature and its filters; the defaults are neutral."""

    temperature: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


GREEDY = SamplingFilters(temperature=0.0)


ROW = np.dtype(
    [
        ("temperature", np.float32),
        ("min_p", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("uniform", np.float64),
    ],
    align=True,
)
"""``SamplingFilters`` and the uniform number, as ``SamplingRow`` of kernels/cpu/kernels.hpp lays them out."""

SamplingBatch = NDArray[np.void]
"""How R rows are sampled: ``[R]`` of ``ROW``."""


def sampling_batch(rows: Iterable[tuple[SamplingFilters, float]]) -> SamplingBatch:
    """Return the batch of rows with these filters and uniform numbers."""
    return np.array([(*filters, uniform) for filters, uniform in rows], ROW)


@dataclass(frozen=True, eq=False)
class TokenChoices:
    """The rows of logits whose tokens the backend chooses; only the tokens come to the host.

    Attributes:
        places: int32 ``[C]``, rising: which of a batch's ``logit_rows``.
        sampling: how, ``[C]``; a temperature of 0 is greedy.
        vocab_size: of the tokenizer; the columns from there on are padding and never chosen.
    """

    places: NDArray[np.int32]
    sampling: SamplingBatch
    vocab_size: int


class HeadOutput(NamedTuple):
    """What comes to the host of a batch's R ``logit_rows``, of which the backend chooses for C.

    Attributes:
        logits: float32 ``[R - C, V]``, of the other rows, in their order.
        tokens: ``[C]``, or ``NO_TOKEN``.
    """

    logits: Logits
    tokens: Tokens


@runtime_checkable
class TokenSampler(Protocol):
    """Chooses tokens: ``ernie_kernels.cpu.CpuOps`` and ``ernie_kernels.reference.ReferenceOps`` do."""

    def sample_tokens(self, logits: Logits, batch: SamplingBatch) -> Tokens:
        """Return a token for each row of logits ``[R, V]``.

        Temperatures are above 0. The largest logit of each row is finite; -infinity is a weight of zero.
        """
        ...

    def apply_token_masks(self, logits: Logits, masks: TokenMasks, rows: NDArray[np.int64]) -> None:
        """Set excluded logits to -infinity, NaN too, in some rows of ``[R, V]``, in place.

        Args:
            logits: contiguous ``[R, V]``.
            masks: ``[M, W]``, W up to ceil(V / 32); a token t >= 32 W is excluded.
            rows: ``[M]``, rising: whose masks they are.
        """
        ...


def apply_token_masks(logits: Logits, masks: TokenMasks, rows: NDArray[np.int64]) -> None:
    """Set excluded logits to -infinity, in place, as ``TokenSampler`` says."""
    tokens = np.arange(min(logits.shape[1], 32 * masks.shape[1]))
    is_allowed = np.zeros((len(masks), logits.shape[1]), bool)
    is_allowed[:, : len(tokens)] = masks[:, tokens // 32] >> (tokens % 32).astype(np.uint32) & 1
    logits[rows] = np.where(is_allowed, logits[rows], np.float32(-np.inf))


def kept_weights(logits: Logits, batch: SamplingBatch) -> Weights:
    """Return the weights ``[R, V]`` that temperature and filters leave: at most 1, dropped ones are 0."""
    columns = batch[:, None]
    best = logits.max(axis=1, keepdims=True).astype(np.float64)
    weights: Weights = np.exp((logits - best) / columns["temperature"])
    weights[weights < columns["min_p"]] = 0
    # Heaviest first, so that the filters are prefixes of a row; a stable sort keeps equals in index order.
    order = np.argsort(-weights, axis=1, kind="stable")
    heaviest = np.take_along_axis(weights, order, axis=1)
    places = np.arange(logits.shape[1])
    heaviest[(places >= columns["top_k"]) & (columns["top_k"] > 0)] = 0
    # A token stays as long as the mass before it is short of top_p; the heaviest always does.
    before = np.cumsum(heaviest, axis=1) - heaviest
    mass = columns["top_p"] * heaviest.sum(axis=1, keepdims=True)
    heaviest[(before >= mass) & (places > 0) & (columns["top_p"] < 1)] = 0
    np.put_along_axis(weights, order, heaviest, axis=1)
    return weights


def sample_tokens(logits: Logits, batch: SamplingBatch) -> Tokens:
    """Return a token for each row of logits ``[R, V]``; temperatures are above 0."""
    sums = np.cumsum(kept_weights(logits, batch), axis=1)
    thresholds = batch["uniform"] * sums[:, -1]
    # Rounding may lift a threshold onto the total; the last token that has a weight is taken then.
    last = (sums < sums[:, -1:]).sum(axis=1)
    tokens: Tokens = np.minimum((sums <= thresholds[:, None]).sum(axis=1), last)
    return tokens


def choose_tokens(
    logits: Logits, batch: SamplingBatch, sample: Callable[[Logits, SamplingBatch], Tokens] = sample_tokens
) -> Tokens:
    """Return a token, or ``NO_TOKEN``, for each row of logits ``[R, V]``, greedy or not.

    Args:
        logits: any numbers.
        batch: how each row is sampled.
        sample: samples rows of finite logits that are not greedy.
    """
    tokens: Tokens = logits.argmax(axis=1)  # NaN counts as the largest
    best = np.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    tokens[~np.isfinite(best)] = NO_TOKEN
    is_random = (batch["temperature"] > 0) & (tokens != NO_TOKEN)
    if not is_random.any():
        return tokens
    if is_random.all():
        return sample(logits, batch)
    tokens[is_random] = sample(logits[is_random], batch[is_random])
    return tokens


def head_output(
    logits: Logits,
    choices: TokenChoices | None,
    sample: Callable[[Logits, SamplingBatch], Tokens] = sample_tokens,
) -> HeadOutput:
    """Choose tokens from logits ``[R, V]`` on the host, for a backend that has them all there."""
    if choices is None:
        return HeadOutput(logits, np.zeros(0, np.int64))
    is_chosen = np.zeros(len(logits), bool)
    is_chosen[choices.places] = True
    chosen = logits if is_chosen.all() else logits[is_chosen]
    return HeadOutput(
        logits[~is_chosen], choose_tokens(chosen[:, : choices.vocab_size], choices.sampling, sample)
    )
