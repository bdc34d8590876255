"""Paged causal attention with grouped kv heads: append, gather, attend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, CacheSpec
from ernie_kernels.batch_checks import check_indices
from ernie_kernels.cache_format import check_cache_spec, through_cache


class ReferenceCache:
    """The paged KV cache of one layer: keys, values ``[num_blocks, block_size, kv_heads, head_dim]``.

    It holds float32 numbers, rounded as the cache's dtype says.
    """

    def __init__(self, spec: CacheSpec) -> None:
        check_cache_spec(spec)
        self.spec = spec
        shape = (spec.num_blocks, spec.block_size, spec.num_kv_heads, spec.head_dim)
        self.keys = np.zeros(shape, np.float32)
        self.values = np.zeros(shape, np.float32)

    def append(
        self,
        places: tuple[NDArray[np.int64], NDArray[np.int64]],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
    ) -> None:
        """Store ``[T, kv_heads, head_dim]`` keys and values at ``places``, (blocks, offsets)."""
        dtype, scales = self.spec.dtype, self.spec.scales
        self.keys[places] = through_cache(keys, dtype, scales.keys if scales else None)
        self.values[places] = through_cache(values, dtype, scales.values if scales else None)


def cache_slots(
    block_table: NDArray[np.int32], start: int, end: int, spec: CacheSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (block, offset) of tokens start .. end - 1 of a sequence.

    Raises:
        ValueError: the block table is too short or names a block that does not exist.
    """
    if end > len(block_table) * spec.block_size:
        raise ValueError(
            f"block table of {len(block_table)} blocks of {spec.block_size} is too short for {end} tokens"
        )
    tokens = np.arange(start, end)
    blocks = block_table[tokens // spec.block_size]
    check_indices("batch.block_tables", blocks, spec.num_blocks)
    return blocks.astype(np.int64), tokens % spec.block_size


def attend(
    queries: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32], context: int
) -> NDArray[np.float32]:
    """Return softmax(q k / sqrt(head_dim)) v of one sequence, causal.

    Args:
        queries: ``[Q, heads, head_dim]``, tokens context .. context + Q - 1.
        keys: ``[context + Q, kv_heads, head_dim]``; query head j reads kv head j // (heads / kv_heads).
        values: as ``keys``.
        context: tokens before the first query.
    """
    count, heads, head_dim = queries.shape
    group = heads // keys.shape[1]
    keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) * np.float32(head_dim**-0.5)
    visible = np.arange(len(keys))[None, :] <= context + np.arange(count)[:, None]
    scores = np.where(visible, scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    attended: NDArray[np.float32] = np.einsum("hqk,khd->qhd", weights, values)
    return attended


def paged_attention(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    cache: ReferenceCache,
    batch: Batch,
) -> NDArray[np.float32]:
    """Append keys and values ``[T, kv_heads, head_dim]`` to the cache and attend, sequence by sequence."""
    result = np.zeros_like(queries)
    for sequence, context in enumerate(batch.context_lengths.tolist()):
        start, end = batch.query_starts[sequence : sequence + 2].tolist()
        if start == end:
            continue
        total = context + end - start
        blocks, offsets = cache_slots(batch.block_tables[sequence], 0, total, cache.spec)
        cache.append((blocks[context:], offsets[context:]), keys[start:end], values[start:end])
        gathered = cache.keys[blocks, offsets], cache.values[blocks, offsets]
        result[start:end] = attend(queries[start:end], *gathered, context)
    return result
