"""A model for tests of the engine: the next token is a hash of all tokens before it.

It keeps its tokens in a paged cache, through the block tables of the batch, as a real model keeps keys and
values: a wrong table, position, chunk or a block owned twice changes the answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.encoder import media_rows_of
from ernie_backend.runner.inputs import build_batch
from ernie_kernels.api import Batch
from ernie_kernels.sampling import HeadOutput, TokenChoices, head_output
from fakes.media import HashEncoder


def next_token(token_ids: Iterable[int], vocab_size: int) -> int:
    """Return the token that follows ``token_ids``."""
    return zlib.crc32(np.array(list(token_ids), np.int32).tobytes()) % vocab_size


def continuation(prompt: Iterable[int], count: int, vocab_size: int) -> list[int]:
    """Return the ``count`` tokens that follow a prompt."""
    tokens = list(prompt)
    start = len(tokens)
    for _ in range(count):
        tokens.append(next_token(tokens, vocab_size))
    return tokens[start:]


class TokenHashRunner:
    """Runs plans; ``plans`` keeps them. Logits are 1 for the next token and 0 elsewhere.

    To it the tokens of media are what ``encoder`` has made of them.
    """

    def __init__(
        self, num_blocks: int, block_size: int, vocab_size: int, encoder: HashEncoder | None = None
    ) -> None:
        self.vocab_size = vocab_size
        self._encoder = encoder
        self.plans: list[SchedulePlan] = []
        self._cache = np.full((num_blocks, block_size), -1, np.int32)

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """Return logits and tokens."""
        return head_output(self.logits(plan), choices)

    def logits(self, plan: SchedulePlan) -> NDArray[np.float32]:
        """Return logits ``[R, V]``."""
        self.plans.append(plan)
        batch = self._with_media(build_batch(plan), plan)
        size = self._cache.shape[1]
        rows = []
        for index, table in enumerate(batch.block_tables):
            begin, end = batch.query_starts[index : index + 2]
            for token, position in zip(batch.token_ids[begin:end], batch.positions[begin:end], strict=True):
                block = int(table[position // size])
                if block < 0:
                    raise AssertionError(f"position {position} has no block in {table}")
                self._cache[block, position % size] = token
        for row in batch.logit_rows:
            index = int(np.searchsorted(batch.query_starts, row, side="right")) - 1
            length = int(batch.positions[row]) + 1
            table = batch.block_tables[index]
            context = [int(self._cache[table[each // size], each % size]) for each in range(length)]
            rows.append(self.logits_after(context))
        return np.array(rows, np.float32).reshape(len(rows), self.vocab_size)

    def _with_media(self, batch: Batch, plan: SchedulePlan) -> Batch:
        if self._encoder is None:
            return batch
        token_ids, outputs = batch.token_ids.copy(), self._encoder.outputs
        values = [outputs[each.digest][each.begin : each.end] for each in media_rows_of(plan)]
        if batch.media_rows is not None:
            token_ids[batch.media_rows] = list(chain.from_iterable(values))
        return replace(batch, token_ids=token_ids)

    def logits_after(self, context: list[int]) -> NDArray[np.float32]:
        """Return the logits ``[V]`` of the token that follows a context."""
        logits = np.zeros(self.vocab_size, np.float32)
        logits[next_token(context, self.vocab_size)] = 1
        return logits


class NoiseRunner(TokenHashRunner):
    """Has an opinion about every token: logits are random numbers that the context seeds."""

    def logits_after(self, context: list[int]) -> NDArray[np.float32]:
        """See ``TokenHashRunner``."""
        return np.random.default_rng(context).random(self.vocab_size, np.float32)
