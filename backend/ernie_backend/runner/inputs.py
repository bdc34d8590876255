"""A plan as the arrays of ``ernie_kernels.api.Batch``.

    chunk of A   chunk of B      C
    a4 a5 a6   | b0 b1 b2 b3  |  c9       token_ids, positions [T]
    0            3               7   8    query_starts [S + 1]
    4            0               9        context_lengths [S]
         (if A is sampled) 2,       7     logit_rows [R]; all of 3 to 6 if B needs all logits

Rows of a chunk are consecutive, and chunks are laid end to end in the plan's order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_kernels.api import ELSEWHERE, Batch
from ernie_kernels.sampling import TokenChoices


def build_batch(plan: SchedulePlan, choices: TokenChoices | None = None) -> Batch:
    """Return the arrays of a plan with at least one chunk, and the ``choices`` of its logit rows."""
    chunks = plan.chunks
    token_ids, positions, logit_rows, query_starts = list[int](), list[int](), list[int](), [0]
    for chunk in chunks:
        token_ids += chunk.token_ids
        end = len(token_ids)
        positions += range(chunk.start, chunk.start + len(chunk.token_ids))
        logit_rows += range(end - chunk.num_logit_rows, end)
        query_starts.append(end)
    batch = Batch(
        token_ids=np.array(token_ids, np.int32),
        positions=np.array(positions, np.int32),
        query_starts=np.array(query_starts, np.int32),
        context_lengths=np.array([chunk.start for chunk in chunks], np.int32),
        block_tables=_block_tables(chunks),
        logit_rows=np.array(logit_rows, np.int32),
        choices=choices,
    )
    return batch if all(chunk.is_text for chunk in chunks) else _with_media(batch, chunks)


def _block_tables(chunks: tuple[ScheduledChunk, ...]) -> NDArray[np.int32]:
    width = max(len(chunk.block_table) for chunk in chunks)
    tables = np.full((len(chunks), width), -1, np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        row[: len(chunk.block_table)] = chunk.block_table
    return tables


def _with_media(batch: Batch, chunks: tuple[ScheduledChunk, ...]) -> Batch:
    """Return the batch with what its media need."""
    has_media = any(chunk.media for chunk in chunks)
    has_vision = any(chunk.vision_types is not None for chunk in chunks)
    return replace(
        batch,
        positions=_on_axes(batch.positions, chunks, batch.query_starts),
        media_rows=_media_rows(chunks, batch.query_starts) if has_media else None,
        vision_rows=_vision_rows(chunks, batch.query_starts) if has_vision else None,
    )


def _on_axes(
    positions: NDArray[np.int32], chunks: tuple[ScheduledChunk, ...], query_starts: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return positions ``[T]`` as ``[A, T]`` if a chunk has places on A axes; others have the same on each."""
    num_axes = max((len(chunk.positions) for chunk in chunks if chunk.positions is not None), default=0)
    if not num_axes:
        return positions
    on_axes = np.tile(positions, (num_axes, 1))
    for chunk, start in zip(chunks, query_starts, strict=False):
        if chunk.positions is not None:
            on_axes[:, start : start + len(chunk.token_ids)] = chunk.positions
    return on_axes


def _media_rows(chunks: tuple[ScheduledChunk, ...], query_starts: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.concatenate(
        [
            np.arange(span.start, span.start + span.length, dtype=np.int32) + start
            for chunk, start in zip(chunks, query_starts, strict=False)
            for span in chunk.media
        ]
    )


def _vision_rows(chunks: tuple[ScheduledChunk, ...], query_starts: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.concatenate(
        [
            np.flatnonzero(chunk.vision_types).astype(np.int32) + start
            for chunk, start in zip(chunks, query_starts, strict=False)
            if chunk.vision_types is not None
        ]
    )


def local_tokens(batch: Batch, vocabulary: range) -> Batch:
    """Return the batch for a rank that has the rows ``vocabulary`` of the embedding, as its rows 0, 1, ..."""
    ids = batch.token_ids
    is_local = (vocabulary.start <= ids) & (ids < vocabulary.stop)
    return replace(batch, token_ids=np.where(is_local, ids - vocabulary.start, ELSEWHERE).astype(np.int32))
