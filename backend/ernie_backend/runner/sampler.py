"""Chooses the next token of every row of logits.

    logits -> logits processors (on a copy) -> greedy: the largest
                                            -> else: temperature, filters, choice (``ernie_kernels.sampling``)

Greedy if temperature or top_p is below 1e-5, or top_k is 1. The uniform number that makes the choice comes from
the counter-based generator Philox, keyed by the request's seed and counted by the token's index in the answer:
the same seed gives the same answer whatever else is in the batch, chunked or preempted, since all arithmetic of
a row is its own. So sampling after drafts gives the tokens that it would give without, as long as they are
right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.logprobs import ScoredToken, scored_token
from ernie_backend.settings.engine_settings import RAW_LOGPROBS
from ernie_kernels.sampling import SamplingBatch, TokenSampler, kept_weights, sampling_batch

NO_TOKEN = -1

Logits = NDArray[np.float32]


class SamplingRow(NamedTuple):
    """The sequence whose next token a row of logits gives, after drafts of the tokens before it."""

    sequence: Sequence
    draft_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class SampledToken:
    """A row's token, ``NO_TOKEN`` where the logits are not numbers, and its rank if the request needs it."""

    token_id: int
    scored: ScoredToken | None = None


class Sampler:
    """Samples for one model.

    Args:
        token_sampler: samples the rows that are not greedy.
        vocab_size: tokens of the tokenizer; the columns from there on are padding and never chosen.
        logprobs_mode: see ``logprobs``.
    """

    def __init__(self, token_sampler: TokenSampler, vocab_size: int, logprobs_mode: str = RAW_LOGPROBS) -> None:
        self._token_sampler = token_sampler
        self._vocab_size = vocab_size
        self._is_processed = logprobs_mode.startswith("processed")
        self._is_logprob = logprobs_mode.endswith("logprobs")

    def sample(self, logits: Logits, rows: list[SamplingRow]) -> list[SampledToken]:
        """Choose a token for each row.

        Args:
            logits: ``[R, V]``; left as they are.
            rows: R of them, in the order of the logits.
        """
        raw = logits[:, : self._vocab_size]
        edited = _processed(raw, rows)
        tokens: NDArray[np.int64] = edited.argmax(axis=1)  # NaN counts as the largest
        best = np.take_along_axis(edited, tokens[:, None], axis=1)[:, 0]
        tokens[~np.isfinite(best)] = NO_TOKEN
        random = [
            index
            for index, row in enumerate(rows)
            if not row.sequence.sampling.is_greedy and tokens[index] != NO_TOKEN
        ]
        if random:
            chosen = edited if len(random) == len(rows) else edited[random]
            tokens[random] = self._token_sampler.sample_tokens(
                chosen, _batch([rows[index] for index in random])
            )
        return [
            SampledToken(token, self._scored(raw[index], edited[index], rows[index], token))
            for index, token in enumerate(tokens.tolist())
        ]

    def score_prompt(self, logits: Logits, next_ids: tuple[int, ...], num_top: int) -> list[ScoredToken]:
        """Return the values of a prompt's tokens ``next_ids [R]`` under the ``logits [R, V]`` before them.

        A prompt is not sampled: processed modes give the raw values here. Tokens that the tokenizer lacks have
        a probability of zero.
        """
        rows = logits[:, : max(self._vocab_size, max(next_ids, default=0) + 1)].copy()
        rows[:, self._vocab_size :] = -np.inf
        return [
            scored_token(row, token_id, num_top, is_logprob=self._is_logprob)
            for row, token_id in zip(rows, next_ids, strict=True)
        ]

    def _scored(self, raw: Logits, edited: Logits, row: SamplingRow, token_id: int) -> ScoredToken | None:
        num_top = row.sequence.sampling.logprobs
        if num_top is None or token_id == NO_TOKEN:
            return None
        values = _filtered(edited, row) if self._is_processed else raw
        return scored_token(values, token_id, num_top, is_logprob=self._is_logprob)


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that chooses token ``index`` of an answer with ``seed``: from Philox."""
    bits = int(np.random.Philox(key=seed, counter=index).random_raw())
    return (bits >> 11) * 2.0**-53


def _processed(logits: Logits, rows: list[SamplingRow]) -> Logits:
    """Return the logits after the sequences' logits processors: a copy, unless there are none."""
    if not any(row.sequence.processors for row in rows):
        return logits
    processed = logits.copy()
    # A row after drafts is that of an answer which ends with them: each processor accepts them, is applied, and
    # rolls back, so the rows of one sequence may come in any order and rejected drafts leave no trace.
    for row_logits, (sequence, draft_ids) in zip(processed, rows, strict=True):
        for processor in sequence.processors:
            for token_id in draft_ids:
                processor.accept(token_id)
            processor.apply(row_logits)
            if draft_ids:
                processor.rollback(len(draft_ids))
    return processed


def _batch(rows: list[SamplingRow]) -> SamplingBatch:
    return sampling_batch(
        (
            sequence.sampling.filters,
            uniform(sequence.sampling.seed, sequence.num_generated + len(draft_ids)),
        )
        for sequence, draft_ids in rows
    )


def _filtered(logits: Logits, row: SamplingRow) -> Logits:
    """Return a row's logits after temperature and filters; greedy rows have neither."""
    sampling = row.sequence.sampling
    if sampling.is_greedy:
        return logits
    is_kept = kept_weights(logits[None], _batch([row]))[0] > 0
    filtered: Logits = np.where(is_kept, logits / np.float32(sampling.filters.temperature), np.float32(-np.inf))
    return filtered
