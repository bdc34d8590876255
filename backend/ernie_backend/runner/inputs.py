"""A plan as the arrays of ``ernie_kernels.api.Batch``.

    chunk of A   chunk of B      C
    a4 a5 a6   | b0 b1 b2 b3  |  c9       token_ids, positions [T]
    0            3               7   8    query_starts [S + 1]
    4            0               9        context_lengths [S]
         (if A is sampled) 2,       7     logit_rows [R]; all of 3 to 6 if B wants all logits

Rows of a chunk are consecutive, and chunks are laid end to end in the plan's order.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from ernie_backend.request.plan import SchedulePlan
from ernie_kernels.api import ELSEWHERE, Batch


def build_batch(plan: SchedulePlan) -> Batch:
    """Return the arrays of a plan with at least one chunk."""
    chunks = plan.chunks
    lengths = np.array([len(chunk.token_ids) for chunk in chunks], np.int32)
    starts = np.array([chunk.start for chunk in chunks], np.int32)
    query_starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    tables = np.full((len(chunks), max(len(chunk.block_table) for chunk in chunks)), -1, np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        row[: len(chunk.block_table)] = chunk.block_table
    ends = query_starts[1:]
    logit_rows = [np.arange(end - chunk.num_logit_rows, end) for end, chunk in zip(ends, chunks, strict=True)]
    return Batch(
        token_ids=np.fromiter(chain.from_iterable(chunk.token_ids for chunk in chunks), np.int32),
        positions=np.arange(query_starts[-1], dtype=np.int32) + np.repeat(starts - query_starts[:-1], lengths),
        query_starts=query_starts,
        context_lengths=starts,
        block_tables=tables,
        logit_rows=np.concatenate(logit_rows).astype(np.int32),
    )


def own_tokens(batch: Batch, vocabulary: range) -> Batch:
    """Return the batch for a rank that has these rows of the embedding, the first of which is its row 0."""
    ids = batch.token_ids
    is_own = (vocabulary.start <= ids) & (ids < vocabulary.stop)
    return replace(batch, token_ids=np.where(is_own, ids - vocabulary.start, ELSEWHERE).astype(np.int32))
