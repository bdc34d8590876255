"""Chooses the next token of every row of logits.

    logits -> logits processors -> token masks -> greedy: the largest
                                               -> else: ``ernie_kernels.sampling``: temperature, filters, choice

That is for rows which need the host (``SamplingRow.needs_host``). Of all others the backend chooses the token
by the same rules as soon as it has the logits (``Sampler.choices``).

Greedy if temperature or top_p is below 1e-5, or top_k is 1. The uniform number that makes the choice comes from
the counter-based generator Philox, keyed by the request's seed and counted by the token's index in the answer:
the same seed gives the same answer whatever else is in the batch, chunked or preempted, since all arithmetic of
a row is its own. So sampling after drafts gives the tokens that it would give without, as long as they are
right.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ernie_backend.runner.logits_processors import AllowedTokens, BadWords, MinTokens
from ernie_backend.runner.logprobs import ScoredToken, scored_token
from ernie_backend.runner.sampling_rows import SamplingRow, fill_masks
from ernie_backend.settings.engine_settings import RAW_LOGPROBS
from ernie_kernels.sampling import (
    GREEDY,
    NO_TOKEN,
    SamplingBatch,
    TokenChoices,
    TokenSampler,
    choose_tokens,
    kept_weights,
    sampling_batch,
)
from ernie_wire.errors import ErnieError, InvalidValue

Logits = NDArray[np.float32]
_GREEDY_ROW = sampling_batch([(GREEDY, 0.0)])


class SampledToken(NamedTuple):
    """A row's token, and its rank if the request needs it; or ``NO_TOKEN``, with the error if it is known."""

    token_id: int
    scored: ScoredToken | None = None
    error: ErnieError | None = None


class Sampler:
    """Samples for one model.

    Args:
        token_sampler: samples the rows that need the host and are not greedy.
        vocab_size: tokens of the tokenizer; the columns from there on are padding and never chosen.
        logprobs_mode: see ``logprobs``.
    """

    def __init__(self, token_sampler: TokenSampler, vocab_size: int, logprobs_mode: str = RAW_LOGPROBS) -> None:
        self._token_sampler = token_sampler
        self._vocab_size = vocab_size
        self._is_processed = logprobs_mode.startswith("processed")
        self._is_logprob = logprobs_mode.endswith("logprobs")
        self._mask_thread = ThreadPoolExecutor(1, "token-masks")  # begins with the first mask

    def choices(self, rows: list[SamplingRow], places: NDArray[np.int32]) -> TokenChoices | None:
        """Return how the backend chooses the tokens of the rows that do not need the host; None: all do.

        Args:
            rows: those to be sampled.
            places: of each of them among the logits of the step.
        """
        chosen = [row for row in rows if not row.needs_host]
        if not chosen:
            return None
        if len(chosen) < len(rows):
            places = places[[not row.needs_host for row in rows]]
        return TokenChoices(places, _batch(chosen), self._vocab_size)

    def filling_masks(self, rows: list[SamplingRow]) -> AbstractContextManager[None]:
        """Fill the token masks of rows on another thread while the body runs, and wait for them after it.

        Args:
            rows: those to be sampled; the rows of one sequence follow each other, each after one draft more.
        """
        if all(row.sequence.token_mask is None for row in rows):
            return nullcontext()
        return self._filling(self._mask_thread.submit(fill_masks, rows, self._vocab_size))

    @contextmanager
    def _filling(self, masks: Future[None]) -> Iterator[None]:
        try:
            yield
        finally:
            masks.result()

    def sample(self, logits: Logits, rows: list[SamplingRow]) -> list[SampledToken]:
        """Choose a token for each row.

        Args:
            logits: ``[R, V]``; masks may be applied to them, which can be repeated.
            rows: R of them, in the order of the logits, with their masks.
        """
        raw, edited = (each[:, : self._vocab_size] for each in self._edited(logits, rows))
        tokens = choose_tokens(edited, _batch(rows), self._token_sampler.sample_tokens)
        return [
            SampledToken(token, self._scored(raw[index], edited[index], row, token))
            if token != NO_TOKEN and row.error is None
            else SampledToken(NO_TOKEN, error=row.error or _nothing_left(row, edited[index]))
            for index, (token, row) in enumerate(zip(tokens.tolist(), rows, strict=True))
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

    def _edited(self, logits: Logits, rows: list[SamplingRow]) -> tuple[Logits, Logits]:
        """Return the logits before and after processors and masks: one array if the former are not needed."""
        masked = [index for index, row in enumerate(rows) if row.mask is not None]
        edited = logits
        if any(row.sequence.processors for row in rows) or any(self._needs_raw(rows[each]) for each in masked):
            edited = logits.copy()
            _process(edited[:, : self._vocab_size], rows)
        if masked:
            masks = np.stack([mask for row in rows if (mask := row.mask) is not None])
            edited = np.require(edited, requirements=["C", "W"])
            self._token_sampler.apply_token_masks(edited, masks, np.array(masked))
        return logits, edited

    def _needs_raw(self, row: SamplingRow) -> bool:
        return row.sequence.sampling.logprobs is not None and not self._is_processed

    def _scored(self, raw: Logits, edited: Logits, row: SamplingRow, token_id: int) -> ScoredToken | None:
        num_top = row.sequence.sampling.logprobs
        if num_top is None:
            return None
        values = _filtered(edited, row) if self._is_processed else raw
        return scored_token(values, token_id, num_top, is_logprob=self._is_logprob)


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that chooses token ``index`` of an answer with ``seed``: from Philox."""
    bits = int(np.random.Philox(key=seed, counter=index).random_raw())
    return (bits >> 11) * 2.0**-53


def _process(logits: Logits, rows: list[SamplingRow]) -> None:
    """Apply the sequences' logits processors.

    A row after drafts is that of an answer which ends with them: each processor accepts them, is applied, and
    rolls back, even if it fails. So rejected drafts leave no trace.
    """
    for row_logits, row in zip(logits, rows, strict=True):
        for processor in row.sequence.processors:
            num_accepted = 0
            try:
                for token_id in row.draft_ids:
                    processor.accept(token_id)
                    num_accepted += 1
                processor.apply(row_logits)
            finally:
                processor.rollback(num_accepted)


_EXCLUDING = {AllowedTokens: "allowed_token_ids", BadWords: "bad_words", MinTokens: "min_tokens"}


def _nothing_left(row: SamplingRow, logits: Logits) -> ErnieError | None:
    """Return the error of a row of which a mask leaves no token; None if that is not why it has none."""
    if row.mask is None or logits.max() != -np.inf:
        return None
    sequence = row.sequence
    others = [
        name for kind, name in _EXCLUDING.items() if any(type(each) is kind for each in sequence.processors)
    ]
    place = f"after {sequence.num_generated + len(row.draft_ids)} tokens of the answer"
    if not others:
        return InvalidValue(f"{place}, its grammar allows no token of this model; change the grammar")
    names = " and ".join(others)
    return InvalidValue(
        f"{place}, every token that its grammar allows is excluded by {names}; relax them, or the grammar",
        others[0],
    )


def _batch(rows: list[SamplingRow]) -> SamplingBatch:
    batch: SamplingBatch = np.repeat(_GREEDY_ROW, len(rows))
    for place, row in enumerate(rows):
        sampling = row.sequence.sampling
        if not sampling.is_greedy:
            index = row.sequence.num_generated + len(row.draft_ids)
            batch[place] = (*sampling.filters, uniform(sampling.seed, index))
    return batch


def _filtered(logits: Logits, row: SamplingRow) -> Logits:
    """Return a row's logits after temperature and filters; greedy rows have neither."""
    sampling = row.sequence.sampling
    if sampling.is_greedy:
        return logits
    is_kept = kept_weights(logits[None], _batch([row]))[0] > 0
    filtered: Logits = np.where(is_kept, logits / np.float32(sampling.filters.temperature), np.float32(-np.inf))
    return filtered
