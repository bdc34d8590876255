"""Chooses the next token of every row of logits.

    logits -> edits (a copy of the row) -> greedy: the largest
                                        -> else: temperature, filters, choice (``ernie_kernels.choice``)

Greedy if temperature or top_p is below 1e-5, or top_k is 1. The number that makes the choice comes from the
counter-based generator Philox, keyed by the request's seed and counted by the index of the token in the answer:
the same seed gives the same answer whatever else is in the batch, chunked or preempted. All arithmetic of a row
is its own.

This module must not know requests, text or the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_backend.runner.logit_edits import LogitEdits
from ernie_backend.runner.logprobs import RAW_LOGPROBS, RankedToken, ranked_token
from ernie_kernels.choice import ChoiceRows, TokenChooser
from ernie_kernels.reference.choice import kept_weights

GREEDY_BELOW = 1e-5
NO_TOKEN = -1

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SamplingRow:
    """How the token of one row is chosen.

    Attributes:
        temperature, top_p, top_k, min_p, seed: see ``ernie_wire.sampling``.
        index: tokens of the answer so far.
        edits: changes of the logits before; None: there are none.
        num_top: how many of the most likely tokens to return; None: no log probabilities at all.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    index: int
    min_p: float = 0.0
    edits: LogitEdits | None = None
    num_top: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW or self.top_p < GREEDY_BELOW or self.top_k == 1


@dataclass(frozen=True)
class SampledToken:
    """A row's token, ``NO_TOKEN`` where the logits are not numbers, and its ranks if they were asked for."""

    token_id: int
    ranked: RankedToken | None = None


class Sampler:
    """Samples for one model.

    Args:
        chooser: makes the choices that are not greedy.
        vocab_size: tokens of the tokenizer; the columns from there on are padding and never chosen.
        logprobs_mode: one of ``logprobs.LOGPROBS_MODES``.
    """

    def __init__(self, chooser: TokenChooser, vocab_size: int, logprobs_mode: str = RAW_LOGPROBS) -> None:
        self._chooser = chooser
        self._vocab_size = vocab_size
        self._is_processed = logprobs_mode.startswith("processed")
        self._is_logprob = logprobs_mode.endswith("logprobs")

    def sample(self, logits: Logits, rows: Sequence[SamplingRow]) -> list[SampledToken]:
        """Choose a token for each row.

        Args:
            logits: ``[R, V]``; left as they are.
            rows: R of them.
        """
        raw = logits[:, : self._vocab_size]
        edited = _edited(raw, rows)
        tokens: NDArray[np.int64] = edited.argmax(axis=1)  # NaN counts as the largest
        best = np.take_along_axis(edited, tokens[:, None], axis=1)[:, 0]
        tokens[~np.isfinite(best)] = NO_TOKEN
        random = [row for row, each in enumerate(rows) if not each.is_greedy and tokens[row] != NO_TOKEN]
        if random:
            chosen = edited if len(random) == len(rows) else edited[random]
            tokens[random] = self._chooser.choose_tokens(chosen, _choice_rows([rows[row] for row in random]))
        return [
            SampledToken(token, self._ranked(raw[row], edited[row], rows[row], token))
            for row, token in enumerate(tokens.tolist())
        ]

    def rank_prompt(self, logits: Logits, next_ids: Sequence[int], num_top: int) -> list[RankedToken]:
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

    def _ranked(self, raw: Logits, edited: Logits, row: SamplingRow, token_id: int) -> RankedToken | None:
        if row.num_top is None or token_id == NO_TOKEN:
            return None
        values = _processed(edited, row) if self._is_processed else raw
        return ranked_token(values, token_id, row.num_top, is_logprob=self._is_logprob)


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that chooses token ``index`` of an answer with ``seed``."""
    bits = int(np.random.Philox(key=seed, counter=index).random_raw())
    return (bits >> 11) * 2.0**-53


def _edited(logits: Logits, rows: Sequence[SamplingRow]) -> Logits:
    """Return the logits with the rows' edits, a copy if there is any."""
    with_edits = [(row, each.edits) for row, each in enumerate(rows) if each.edits is not None]
    if not with_edits:
        return logits
    edited = logits.copy()
    for row, edits in with_edits:
        edits.apply(edited[row])
    return edited


def _choice_rows(rows: Sequence[SamplingRow]) -> ChoiceRows:
    return ChoiceRows(
        temperatures=np.array([row.temperature for row in rows], np.float32),
        min_p=np.array([row.min_p for row in rows], np.float32),
        top_k=np.array([row.top_k for row in rows], np.int64),
        top_p=np.array([row.top_p for row in rows], np.float64),
        numbers=np.array([uniform(row.seed, row.index) for row in rows], np.float64),
    )


def _processed(edited: Logits, row: SamplingRow) -> Logits:
    """Return a row's logits after temperature and filters; greedy rows have neither."""
    if row.is_greedy:
        return edited
    kept = kept_weights(edited[None], _choice_rows([row]))[0] > 0
    processed: Logits = np.where(kept, edited / np.float32(row.temperature), np.float32(-np.inf))
    return processed
