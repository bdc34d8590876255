"""How attention is cut: every query meets exactly the keys up to itself, in arrays of bounded size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels import attention_blocks as blocks
from ernie_kernels.api import Batch, CacheSpec
from ernie_kernels.attention_blocks import AttentionBlocks, attention_blocks, scratch_bytes

BLOCK_SIZE = 3


def batch_of(counts: list[int], contexts: list[int], block_size: int = BLOCK_SIZE) -> tuple[Batch, CacheSpec]:
    """Sequences with blocks of their own, in any order."""
    lengths = np.add(counts, contexts)
    each = -(-int(lengths.max()) // block_size)
    tables = np.random.default_rng(0).permutation(each * len(counts)).reshape(len(counts), each)
    total = sum(counts)
    batch = Batch(
        token_ids=np.zeros(total, np.int32),
        positions=np.zeros(total, np.int32),
        query_starts=np.cumsum([0, *counts]).astype(np.int32),
        context_lengths=np.array(contexts, np.int32),
        block_tables=tables.astype(np.int32),
        logit_rows=np.zeros(0, np.int32),
    )
    return batch, CacheSpec(each * len(counts), block_size, 1, 4, "float32")


def visible(cut: AttentionBlocks) -> dict[int, list[int]]:
    """Row of the step -> slots that its query sees, in order."""
    seen: dict[int, list[int]] = {}
    for group in cut.groups:
        places = group.positions.reshape(group.num_sequences, -1)
        rows = group.rows.reshape(places.shape)
        for block in group.key_blocks:
            slots = block.slots.reshape(group.num_sequences, -1)
            keys = np.arange(block.first, block.first + slots.shape[1])
            for sequence, query in np.ndindex(places.shape):
                is_seen = keys <= places[sequence, query]
                assert block.has_hidden or is_seen.all()
                seen.setdefault(int(rows[sequence, query]), []).extend(slots[sequence][is_seen].tolist())
    return seen


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=6).filter(
        lambda pairs: any(count for count, _ in pairs)
    ),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_queries_meet_the_keys_up_to_themselves(
    pairs: list[tuple[int, int]], query_block: int, key_block: int, sequences: int
) -> None:
    batch, spec = batch_of([count for count, _ in pairs], [context for _, context in pairs])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("QUERY_BLOCK", query_block), ("KEY_BLOCK", key_block), ("SEQUENCES", sequences)):
            patch.setattr(blocks, name, value)
        cut = attention_blocks(batch, spec)
    slots = {
        (sequence, place): int(batch.block_tables[sequence, place // BLOCK_SIZE]) * BLOCK_SIZE
        + place % BLOCK_SIZE
        for sequence, (count, context) in enumerate(pairs)
        for place in range(count + context)
    }
    rows = [
        (sequence, context + index) for sequence, (count, context) in enumerate(pairs) for index in range(count)
    ]
    seen = visible(cut)
    assert [seen[row] for row in range(len(rows))] == [
        [slots[sequence, key] for key in range(place + 1)] for sequence, place in rows
    ]
    assert cut.slots.tolist() == [slots[row] for row in rows]
    assert np.concatenate([group.rows for group in cut.groups])[cut.order].tolist() == list(range(len(rows)))
    for group in cut.groups:
        assert group.num_sequences <= sequences
        assert len(group.rows) <= max(query_block, sequences)
        assert all(len(block.slots) <= key_block * group.num_sequences for block in group.key_blocks)


def test_scratch_memory_does_not_grow_with_the_context() -> None:
    """2,048 new tokens at 32,768, and 40 requests that decode: what any group holds of scores and contexts."""
    heads, kv_heads, head_dim = 20, 4, 128
    batch, spec = batch_of([2048, *[1] * 40], [30720, *[32767] * 40], 64)
    bound = scratch_bytes(heads, kv_heads, head_dim)
    assert bound < 350 << 20
    for group in attention_blocks(batch, spec).groups:
        for block in group.key_blocks:
            length = len(block.slots) // group.num_sequences
            scores = 4 * heads * len(group.rows) * length
            contexts = 2 * 4 * len(block.slots) * kv_heads * head_dim
            assert 4 * scores + 2 * contexts <= bound
