"""The description of a step for FastDeploy's attention: its own worked example, and a slow definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels.api import Batch
from ernie_kernels.fastdeploy.step import StepDescriptor, describe_step

BLOCK_SIZE = 4


def batch_of(counts: list[int], cached: list[int], block_size: int = BLOCK_SIZE) -> Batch:
    """Sequences with blocks of their own in any order; token ids count up, so that they name rows."""
    lengths, total = np.add(counts, cached), sum(counts)
    each = -(-int(lengths.max()) // block_size)
    tables = np.random.default_rng(1).permutation(each * len(counts)).reshape(len(counts), each)
    used = -(-lengths // block_size)
    tables = np.where(np.arange(each) < used[:, None], tables, -1)
    starts = np.cumsum([0, *counts])
    return Batch(
        token_ids=np.arange(total, dtype=np.int32),
        positions=(np.arange(total) + np.repeat(np.array(cached) - starts[:-1], counts)).astype(np.int32),
        query_starts=starts.astype(np.int32),
        context_lengths=np.array(cached, np.int32),
        block_tables=tables.astype(np.int32),
        logit_rows=np.arange(0, total, 2, dtype=np.int32),
    )


def described(batch: Batch, most_decoded: int = 1, block_size: int = BLOCK_SIZE) -> StepDescriptor:
    return describe_step(batch, block_size, int(batch.block_tables.max()) + 1, most_decoded)


def test_the_worked_example_of_fastdeploy() -> None:
    """test_get_infer_param.py: slots 0 and 4 fill in prompts, 4 after 64 cached tokens; 1 and 3 decode."""
    batch = batch_of([100, 1, 0, 1, 300], [0, 5, 0, 25, 64], 64)
    step = described(batch, block_size=64)
    lengths = step.lengths
    assert lengths.encoder_batch_map.tolist() == [0, 4, 0, 0, 0]
    assert lengths.decoder_batch_map.tolist() == [1, 3, 0, 0, 0]
    assert lengths.encoder_seq_lod.tolist() == [0, 100, 400, 400, 400, 400]
    assert lengths.decoder_seq_lod.tolist() == [0, 1, 2, 2, 2, 2]
    assert lengths.encoder_kv_lod.tolist() == [0, 100, 464, 464, 464, 464]
    assert lengths.prefix_len.tolist() == [0, 64, 0, 0, 0]
    assert lengths.decoder_context_len.tolist() == [6, 26, 0, 0, 0]
    assert lengths.decoder_context_len_cache.tolist() == [5, 25, 0, 0, 0]
    assert step.len_info.tolist() == [2, 2, 400, 300, 364, 6, 1]
    tables = batch.block_tables
    assert step.prefix_block_tables.shape == (5, 6)
    assert step.prefix_block_tables[0].tolist() == [*tables[0, :2], -1, -1, -1, -1]
    assert step.prefix_block_tables[1].tolist() == tables[4, :6].tolist()
    assert (step.prefix_block_tables[2:] == -1).all()


def test_without_cached_tokens_there_are_no_prefix_tables() -> None:
    step = described(batch_of([3, 1], [0, 0]))
    assert step.len_info.tolist() == [2, 0, 4, 3, 3, -1, 0], "a first token does not decode"
    assert (step.prefix_block_tables == -1).all()


def test_no_prompts_and_drafts() -> None:
    """Tokens are drafts if the logits of all are needed; of others none decodes."""
    batch = batch_of([1, 3], [2, 9])
    assert described(batch, most_decoded=3).len_info.tolist() == [1, 1, 3, 3, 12, 3, 1]
    batch = replace(batch, logit_rows=np.arange(4, dtype=np.int32))
    assert described(batch, most_decoded=2).len_info.tolist() == [1, 1, 3, 3, 12, 3, 1]
    step = described(batch, most_decoded=3)
    assert step.len_info.tolist() == [0, 2, 0, 0, 0, -1, 3]
    assert step.lengths.decoder_seq_lod.tolist() == [0, 1, 4]
    assert step.lengths.decoder_context_len.tolist() == [3, 12]


steps = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=6).filter(
    lambda pairs: any(count for count, _ in pairs)
)


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(1, 3), st.integers(1, 2))
def test_against_a_slow_definition(pairs: list[tuple[int, int]], most_decoded: int, stride: int) -> None:
    batch = batch_of([count for count, _ in pairs], [cached for _, cached in pairs])
    media = batch.logit_rows[::-1].copy()
    batch = replace(batch, media_rows=media, vision_rows=batch.logit_rows)
    batch = replace(batch, logit_rows=np.arange(0, len(batch.token_ids), stride, dtype=np.int32))
    step, starts = described(batch, most_decoded), batch.query_starts
    decoders = [
        i
        for i, (count, cached) in enumerate(pairs)
        if cached and (count == 1 or (0 < count <= most_decoded and stride == 1))
    ]
    encoders = [i for i, (count, _) in enumerate(pairs) if count and i not in decoders]
    rows = [row for i in encoders + decoders for row in range(starts[i], starts[i + 1])]
    assert step.batch.token_ids.tolist() == rows
    assert step.batch.positions.tolist() == batch.positions[rows].tolist()
    assert step.places.tolist() == batch.positions[rows].tolist()
    assert step.table_rows.tolist() == [i for i in encoders + decoders for _ in range(pairs[i][0])]
    assert step.batch.token_ids[step.batch.logit_rows].tolist() == batch.logit_rows.tolist()
    assert step.batch.media_rows is not None
    assert step.batch.vision_rows is not None
    assert step.batch.token_ids[step.batch.media_rows].tolist() == media.tolist()
    assert sorted(step.batch.token_ids[step.batch.vision_rows].tolist()) == sorted(media.tolist())
    assert (np.diff(step.batch.vision_rows) > 0).all()
    assert step.batch.context_lengths.tolist() == [pairs[i][1] for i in encoders + decoders]
    slots = [
        [
            int(batch.block_tables[i, place // BLOCK_SIZE]) * BLOCK_SIZE + place % BLOCK_SIZE
            for i in members
            for place in range(pairs[i][1], sum(pairs[i]))
        ]
        for members in (encoders, decoders)
    ]
    assert step.slot_mapping_enc.tolist() == slots[0]
    assert step.slot_mapping_dec.tolist() == slots[1] + [-1] * max(0, len(pairs) - len(slots[1]))
    for name, members in (("encoder", encoders), ("decoder", decoders)):
        arrays = step.lengths.arrays()
        assert np.diff(arrays[f"{name}_seq_lod"])[: len(members)].tolist() == [pairs[i][0] for i in members]
        assert arrays[f"{name}_batch_map"][: len(members)].tolist() == members
    assert all(array.dtype == np.int32 for array in step.lengths.arrays().values())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"block_tables": np.array([[0]], np.int32)}, "block_tables has 1 blocks of 4 .*too short for 5"),
        ({"block_tables": np.array([[0, 7]], np.int32)}, "block_tables has 7, expected 0 to 1"),
        ({"positions": np.array([4, 4, 5], np.int32)}, "positions must be the places"),
    ],
)
def test_what_the_kernels_would_read_past_or_not_see(change: dict[str, Any], complaint: str) -> None:
    batch = batch_of([3], [2])
    with pytest.raises(ValueError, match=complaint):
        describe_step(replace(batch, **change), BLOCK_SIZE, 2)
