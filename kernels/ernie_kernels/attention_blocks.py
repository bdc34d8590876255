"""Cuts the attention of a step into blocks of queries and keys, so that it takes bounded memory.

For backends that compose attention of matrix products. Sequences that decode, one new token each, are computed
``SEQUENCES`` at a time, the shortest contexts first; every other sequence is computed alone, ``QUERY_BLOCK``
queries at a time. Each such group meets the keys in blocks of ``KEY_BLOCK`` and keeps a running maximum and sum
(FlashAttention, Dao et al., 2022), so that nothing grows with the length of a context.

Pure NumPy: the plan of memory counts what the kernels will take (``scratch_bytes``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, CacheSpec
from ernie_kernels.batch_checks import check_indices

QUERY_BLOCK = 256
KEY_BLOCK = 1024
SEQUENCES = 16
"""Sequences that decode together."""

_SCORE_ARRAYS = 5
"""Float32 arrays of a block's scores alive at once: products, mask, masked, differences, exponentials."""
_QUERY_ARRAYS = 6
"""Float32 arrays of a group's queries: gathered, in rows, and the sums before and after they are scaled."""
_CONTEXT_BYTES = 2 * (4 + 4 + 4)
"""Of a number of the context: of keys and of values, as stored, as float32 and in rows of heads."""

Indices = NDArray[np.int32]


@dataclass(frozen=True)
class KeyBlock:
    """L consecutive positions of the contexts of N sequences.

    Attributes:
        first: the first position.
        slots: int32 ``[N * L]``, the cache slots. Padding repeats the sequence's own first slot, so that no
            other sequence's numbers are ever touched.
        has_hidden: whether a query of the group must not see a key of the block.
    """

    first: int
    slots: Indices
    has_hidden: bool


@dataclass(frozen=True)
class QueryGroup:
    """N sequences with Q queries each.

    Attributes:
        num_sequences: N.
        rows: int32 ``[N * Q]``, the rows of the step.
        positions: int32 ``[N * Q]``, the places of the queries in their contexts; keys after them are hidden.
        key_blocks: the keys, in order; every query sees one of the first block.
    """

    num_sequences: int
    rows: Indices
    positions: Indices
    key_blocks: tuple[KeyBlock, ...]


@dataclass(frozen=True)
class AttentionBlocks:
    """How a step attends to a cache.

    Attributes:
        slots: int32 ``[T]``, the cache slot of each new token.
        groups: together they hold every row once.
        order: int32 ``[T]``: row t of the step is row ``order[t]`` of the groups' results, laid end to end.
    """

    slots: Indices
    groups: tuple[QueryGroup, ...]
    order: Indices


def attention_blocks(batch: Batch, spec: CacheSpec) -> AttentionBlocks:
    """Cut the attention of ``batch`` over a cache of ``spec``.

    Raises:
        ValueError: a block table is too short for its sequence, or names a block that does not exist.
    """
    counts = np.diff(batch.query_starts)
    lengths = batch.context_lengths + counts
    slots = _slots(batch.block_tables, lengths, spec)
    # The index of each token in its sequence, hence in the cache; it may differ from its rotary position.
    shifts = np.repeat(batch.context_lengths - batch.query_starts[:-1], counts)
    places = np.arange(counts.sum(), dtype=np.int32) + shifts
    groups = tuple(
        QueryGroup(len(members), rows, places[rows], tuple(_key_blocks(slots[members], places[rows], members)))
        for members, rows in _groups(batch.query_starts, lengths)
    )
    sequences = np.repeat(np.arange(len(counts)), counts)
    order = np.argsort(np.concatenate([group.rows for group in groups])).astype(np.int32)
    return AttentionBlocks(slots[sequences, places], groups, order)


def scratch_bytes(heads: int, kv_heads: int, head_dim: int) -> int:
    """Return a bound of the bytes that one group takes beside its queries and its result."""
    scores = _SCORE_ARRAYS * heads * max(QUERY_BLOCK, SEQUENCES) * KEY_BLOCK
    queries = _QUERY_ARRAYS * heads * head_dim * max(QUERY_BLOCK, SEQUENCES)
    return 4 * (scores + queries) + _CONTEXT_BYTES * SEQUENCES * KEY_BLOCK * kv_heads * head_dim


def _groups(starts: Indices, lengths: Indices) -> Iterator[tuple[list[int], Indices]]:
    """Yield the sequences of each group, and its rows."""
    counts = np.diff(starts)
    decoding = sorted(np.flatnonzero(counts == 1).tolist(), key=lambda sequence: int(lengths[sequence]))
    for begin in range(0, len(decoding), SEQUENCES):
        members = decoding[begin : begin + SEQUENCES]
        yield members, starts[members]
    for sequence in np.flatnonzero(counts > 1).tolist():
        rows = np.arange(starts[sequence], starts[sequence + 1], dtype=np.int32)
        for begin in range(0, len(rows), QUERY_BLOCK):
            yield [sequence], rows[begin : begin + QUERY_BLOCK]


def _key_blocks(slots: Indices, places: Indices, members: list[int]) -> Iterator[KeyBlock]:
    """Yield the keys that ``places [N * Q]`` see, from ``slots [N, longest]``."""
    last = places.reshape(len(members), -1).max(axis=1, keepdims=True)
    for first in range(0, int(last.max()) + 1, KEY_BLOCK):
        keys = np.arange(first, min(first + KEY_BLOCK, int(last.max()) + 1), dtype=np.int32)
        # The padding is hidden, but 0 * NaN would be NaN.
        own = np.where(keys <= last, slots[:, keys], slots[:, :1]).astype(np.int32)
        yield KeyBlock(first, own.reshape(-1), bool(keys[-1] > places.min()))


def _slots(block_tables: Indices, lengths: Indices, spec: CacheSpec) -> Indices:
    """Return the slot of every position: ``[S, longest]``; those past a sequence's end are arbitrary."""
    size, blocks = spec.block_size, block_tables.shape[1]
    longest = int(lengths.max())
    if longest > blocks * size:
        raise ValueError(
            f"batch.block_tables has {blocks} blocks of {size} tokens, too short for {longest} tokens"
        )
    is_used = np.arange(blocks) * size < lengths[:, None]
    check_indices("batch.block_tables", block_tables[is_used], spec.num_blocks)
    positions = np.arange(longest, dtype=np.int32)
    return block_tables[:, positions // size] * np.int32(size) + positions % np.int32(size)
