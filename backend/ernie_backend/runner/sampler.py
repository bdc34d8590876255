"""Chooses the next token of every row of logits.

    logits -> logits processors (on a copy) -> greedy: the largest
                                            -> else: temperature, filters, choice (``ernie_kernels.sampling``)

Greedy if temperature or top_p is below 1e-5, or top_k is 1. The number that makes the choice comes from the
counter-based generator Philox, keyed by the request's seed and counted by the index of the token in the answer:
the same seed gives the same answer whatever else is in the batch, chunked or preempted. All arithmetic of a row
is its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.logprobs import RAW_LOGPROBS, RankedToken, ranked_token
from ernie_kernels.sampling import SamplingBatch, TokenSampler, kept_weights, sampling_batch

NO_TOKEN = -1

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SampledToken:
    """A row's token, ``NO_TOKEN`` where the logits are not numbers, and its ranks if they were asked for."""

    token_id: int
    ranked: RankedToken | None = None


class Sampler:
    """Samples for one model.

    Args:
        tokens: samples those that are not greedy.
        vocab_size: tokens of the tokenizer; the columns from there on are padding and never chosen.
        logprobs_mode: one of ``logprobs.LOGPROBS_MODES``.
    """

    def __init__(self, tokens: TokenSampler, vocab_size: int, logprobs_mode: str = RAW_LOGPROBS) -> None:
        self._tokens = tokens
        self._vocab_size = vocab_size
        self._is_processed = logprobs_mode.startswith("processed")
        self._is_logprob = logprobs_mode.endswith("logprobs")

    def sample(self, logits: Logits, sequences: list[Sequence]) -> list[SampledToken]:
        """Choose the next token of each sequence.

        Args:
            logits: ``[R, V]``; left as they are.
            sequences: R of them.
        """
        raw = logits[:, : self._vocab_size]
        edited = _processed(raw, sequences)
        tokens: NDArray[np.int64] = edited.argmax(axis=1)  # NaN counts as the largest
        best = np.take_along_axis(edited, tokens[:, None], axis=1)[:, 0]
        tokens[~np.isfinite(best)] = NO_TOKEN
        random = [
            row for row, each in enumerate(sequences) if not each.sampling.is_greedy and tokens[row] != NO_TOKEN
        ]
        if random:
            chosen = edited if len(random) == len(sequences) else edited[random]
            batch = _batch([sequences[row] for row in random])
            tokens[random] = self._tokens.sample_tokens(chosen, batch)
        return [
            SampledToken(token, self._ranked(raw[row], edited[row], sequences[row], token))
            for row, token in enumerate(tokens.tolist())
        ]

    def rank_prompt(self, logits: Logits, next_ids: tuple[int, ...], num_top: int) -> list[RankedToken]:
        """Return what the model thought of tokens of a prompt: ``logits [R, V]`` came before ``next_ids [R]``.

        A prompt is not sampled: processed modes give the raw values here. Tokens that are no tokenizer's have a
        probability of zero.
        """
        rows = logits[:, : max(self._vocab_size, max(next_ids, default=0) + 1)].copy()
        rows[:, self._vocab_size :] = -np.inf
        return [
            ranked_token(row, token_id, num_top, is_logprob=self._is_logprob)
            for row, token_id in zip(rows, next_ids, strict=True)
        ]

    def _ranked(self, raw: Logits, edited: Logits, sequence: Sequence, token_id: int) -> RankedToken | None:
        num_top = sequence.sampling.logprobs
        if num_top is None or token_id == NO_TOKEN:
            return None
        values = _filtered(edited, sequence) if self._is_processed else raw
        return ranked_token(values, token_id, num_top, is_logprob=self._is_logprob)


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that chooses token ``index`` of an answer with ``seed``."""
    bits = int(np.random.Philox(key=seed, counter=index).random_raw())
    return (bits >> 11) * 2.0**-53


def _processed(logits: Logits, sequences: list[Sequence]) -> Logits:
    """Return the logits after the sequences' logits processors, a copy if there is any."""
    if not any(sequence.processors for sequence in sequences):
        return logits
    processed = logits.copy()
    for row, sequence in zip(processed, sequences, strict=True):
        for processor in sequence.processors:
            processor.apply(row)
    return processed


def _batch(sequences: list[Sequence]) -> SamplingBatch:
    return sampling_batch(
        (sequence.sampling.filters, uniform(sequence.sampling.seed, sequence.num_generated))
        for sequence in sequences
    )


def _filtered(logits: Logits, sequence: Sequence) -> Logits:
    """Return a row's logits after temperature and filters; greedy rows have neither."""
    if sequence.sampling.is_greedy:
        return logits
    kept = kept_weights(logits[None], _batch([sequence]))[0] > 0
    temperature = np.float32(sequence.sampling.filters.temperature)
    filtered: Logits = np.where(kept, logits / temperature, np.float32(-np.inf))
    return filtered
