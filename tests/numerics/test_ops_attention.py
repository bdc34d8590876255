"""attention of CpuOps against ReferenceOps: ragged, chunked, paged, every cache type, both rotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels.api import CacheSpec, RotarySpec
from ernie_kernels.cache_format import through_cache
from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import ActivationType, Float32Weight
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import GREEDY, TokenChoices, sampling_batch
from numerics.backends import ROUNDING_ISAS
from numerics.ops_cases import (
    CACHE_KINDS,
    ISAS,
    Floats,
    Layout,
    bits,
    cache_spec,
    cpu_ops,
    make_batch,
    plain_batch,
    random_floats,
    shuffled_tables,
    with_fields,
)

REFERENCE = ReferenceOps()
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-3, "int8": 5e-3, "int8-static": 5e-3}
"""A key within a float32 rounding of a boundary may be stored one step apart."""
ROUNDED_TOLERANCE = 0.1
"""For scores and values of up to 10: one in 256 of each."""
TILE_EDGES = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025]
"""Around pages, row tiles, key tiles and key ranges (kernels/cpu/attention_task.hpp)."""


def rounds(isa: str, kind: str) -> bool:
    return isa in ROUNDING_ISAS and kind != "float32"


def tolerance(isa: str, kind: str) -> float:
    return ROUNDED_TOLERANCE if rounds(isa, kind) else TOLERANCES[kind]


def run_steps(
    ops: Any, qkv: Floats, chunks: list[int], block_size: int, kind: str, kv_heads: int, spec: RotarySpec
) -> Floats:
    """Return the attention of one sequence, ``qkv`` row by row, cut into chunks."""
    blocks = -(-len(qkv) // block_size)
    layout = Layout((), block_size, blocks + 3)
    cache = ops.allocate_cache(cache_spec(layout, kv_heads, spec.head_dim, kind))
    tables = shuffled_tables(block_size, 1, blocks, layout.num_blocks)
    rotary, parts, done = ops.pack_rotary(spec), [], 0
    for chunk in chunks:
        batch = make_batch(Layout(((done, chunk),), block_size, layout.num_blocks), tables)
        part = np.ascontiguousarray(qkv[done : done + chunk])
        parts.append(ops.attention(part, rotary, cache, ops.upload(batch)))
        done += chunk
    assert done == len(qkv)
    return np.concatenate(parts)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHE_KINDS)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "interleaved"),
    [
        (1, 1, 2, True),
        (4, 2, 16, True),
        (6, 1, 20, False),
        (5, 5, 34, True),
        (16, 2, 128, True),
        (7, 1, 64, False),
    ],
)
def test_ragged_batch_equals_the_reference(
    isa: str, kind: str, heads: int, kv_heads: int, head_dim: int, interleaved: bool
) -> None:
    """Prefill and decode rows at once, an empty sequence among them, after a filling step."""
    spec = RotarySpec(head_dim, 400, 500000.0, interleaved)
    width = (heads + 2 * kv_heads) * head_dim
    first = Layout(((0, 130), (0, 1), (0, 0), (0, 64), (0, 5)), 16, 64)
    second = Layout(((130, 1), (1, 70), (0, 3), (64, 1), (5, 0)), 16, 64)
    tables = shuffled_tables(3, 5, 10, 64)
    results = []
    backends: list[Any] = [REFERENCE, cpu_ops(isa)]
    for ops in backends:
        cache, rotary = ops.allocate_cache(cache_spec(first, kv_heads, head_dim, kind)), ops.pack_rotary(spec)
        for seed, layout in enumerate((first, second)):
            batch = make_batch(layout, tables)
            qkv = random_floats(seed, len(batch.token_ids), width, scale=2.0)
            results.append(ops.attention(qkv, rotary, cache, ops.upload(batch)))
    for found, expected in zip(results[2:], results[:2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance(isa, kind))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_chunks_blocks_and_threads_do_not_change_a_bit(isa: str, kind: str) -> None:
    spec = RotarySpec(24, 200, 10000.0)
    qkv = random_floats(5, 150, (6 + 2 * 2) * 24)
    whole = run_steps(cpu_ops(isa), qkv, [150], 16, kind, 2, spec)
    for block_size in (1, 7, 16, 64, 256):
        for chunks in ([150], [1] * 20 + [130], [64, 64, 22], [7] * 21 + [3]):
            part = run_steps(cpu_ops(isa, 1 + block_size % 3), qkv, chunks, block_size, kind, 2, spec)
            np.testing.assert_array_equal(bits(part), bits(whole))


@pytest.mark.parametrize("isa", ISAS)
def test_what_an_earlier_op_left_in_scratch_memory_changes_no_bit(isa: str) -> None:
    """Slots behind a short sequence are not gathered from small blocks: here the memory for them holds NaN."""
    used, fresh, spec = CpuOps(1, isa), CpuOps(1, isa), RotarySpec(24, 200, 10000.0)
    head = used.pack_linear(Float32Weight(np.full((256, 8), np.nan, np.float32)), ActivationType.FLOAT32)
    everything = TokenChoices(np.arange(512, dtype=np.int32), sampling_batch([(GREEDY, 0.0)] * 512), 256)
    step = used.upload(with_fields(plain_batch(512), choices=everything))
    used.lm_head(np.ones((512, 8), np.float32), head, step)
    qkv = random_floats(5, 5, (6 + 2 * 2) * 24)
    found, expected = (run_steps(ops, qkv, [5], 7, "bfloat16", 2, spec) for ops in (used, fresh))
    np.testing.assert_array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("isa", ISAS)
def test_caches_of_any_sizes_can_share_an_uploaded_batch(isa: str) -> None:
    """The plan of a step is kept with it: for caches and heads that are alike, and for no others."""
    ops = cpu_ops(isa)
    batch = make_batch(Layout(((0, 40), (30, 1)), 16, 8), np.array([[0, 1, 2], [3, 4, -1]], np.int32))
    shared = ops.upload(batch)
    for kv_heads, block_size, positions in ((1, 16, 64), (1, 16, 64), (2, 16, 64), (1, 32, 64), (1, 16, 99)):
        rotary = ops.pack_rotary(RotarySpec(8, positions, 10000.0))
        for heads in (2, 4):
            qkv = random_floats(heads, 41, (heads + 2 * kv_heads) * 8)
            found, alone = (
                ops.attention(
                    qkv, rotary, ops.allocate_cache(CacheSpec(8, block_size, kv_heads, 8, "float32")), step
                )
                for step in (shared, ops.upload(batch))
            )
            np.testing.assert_array_equal(bits(found), bits(alone))
    few = ops.allocate_cache(CacheSpec(4, 16, 1, 8, "float32"))
    with pytest.raises(ValueError, match="block_tables has 4, expected 0 to 3"):
        ops.attention(random_floats(2, 41, 32), ops.pack_rotary(RotarySpec(8, 64, 10000.0)), few, shared)
    with pytest.raises(ValueError, match="positions has 39, expected 0 to 38"):
        ops.attention(random_floats(2, 41, 32), ops.pack_rotary(RotarySpec(8, 39, 10000.0)), few, shared)


def test_a_batch_is_what_it_was_when_it_was_uploaded() -> None:
    """Its indices are checked once in a step, so nobody may change them afterwards."""
    ops, batch = cpu_ops("scalar"), make_batch(Layout(((0, 3),), 16, 1), np.zeros((1, 1), np.int32))
    rotary, qkv = ops.pack_rotary(RotarySpec(8, 4, 10000.0)), random_floats(1, 3, 3 * 8)
    step = ops.upload(batch)
    results = []
    for _ in range(2):
        cache = ops.allocate_cache(CacheSpec(1, 16, 1, 8, "float32"))
        results.append(ops.attention(qkv, rotary, cache, step))
        for array in vars(batch).values():
            if array is not None:
                array[...] = 10**6
    np.testing.assert_array_equal(bits(results[1]), bits(results[0]))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Layout, int, int, int]:
    """Contexts and new tokens of some sequences, query heads per kv head, kv heads, half of head_dim."""
    sequence = st.tuples(st.sampled_from([0, 1, 15, 16, 63, 64, 70]), st.sampled_from([0, 1, 2, 16, 17, 65]))
    sequences = draw(st.lists(sequence.filter(any), min_size=1, max_size=4))
    block_size = draw(st.sampled_from([1, 5, 16, 33, 64]))
    blocks = sum(-(-(context + new) // block_size) for context, new in sequences)
    layout = Layout(tuple(sequences), block_size, blocks + 2)
    return layout, draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 20))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=20, deadline=None)
@given(shape=shapes(), kind=st.sampled_from(CACHE_KINDS), seed=st.integers(0, 1000), interleaved=st.booleans())
def test_any_shape_equals_the_reference(
    isa: str, shape: tuple[Layout, int, int, int], kind: str, seed: int, interleaved: bool
) -> None:
    layout, group, kv_heads, half = shape
    filling = Layout(tuple((0, context) for context, _ in layout.sequences), layout.block_size, 0)
    order, tables = np.random.default_rng(seed).permutation(layout.num_blocks).astype(np.int32), []
    for context, new in layout.sequences:
        used, order = np.split(order, [-(-(context + new) // layout.block_size)])
        tables.append(np.pad(used, (0, 140 - len(used)), constant_values=-1))
    results = []
    backends: list[Any] = [REFERENCE, cpu_ops(isa)]
    for ops in backends:
        cache = ops.allocate_cache(cache_spec(layout, kv_heads, 2 * half, kind))
        rotary = ops.pack_rotary(RotarySpec(2 * half, 140, 10000.0, interleaved))
        for step in (filling, layout):
            if not any(new for _, new in step.sequences):
                continue
            batch = make_batch(step, np.array(tables))
            qkv = random_floats(seed, len(batch.token_ids), (group + 2) * kv_heads * 2 * half)
            results.append(ops.attention(qkv, rotary, cache, ops.upload(batch)))
    half_way = len(results) // 2
    for found, expected in zip(results[half_way:], results[:half_way], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance(isa, kind))


def cuts(total: int, size: int) -> list[int]:
    """Chunks of ``size`` tokens, the last one shorter."""
    return [min(size, total - start) for start in range(0, total, size)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_chunks_around_the_edges_of_tiles_do_not_change_a_bit(isa: str, kind: str) -> None:
    """1100 tokens of 5 query heads in one step and as two, the second of which starts at an edge."""
    spec, total = RotarySpec(4, 1100, 10000.0), 1100
    qkv = random_floats(8, total, (5 + 2) * 4)
    whole = run_steps(cpu_ops(isa), qkv, [total], 64, kind, 1, spec)
    for edge in TILE_EDGES:
        part = run_steps(cpu_ops(isa), qkv, [edge, total - edge], 64, kind, 1, spec)
        np.testing.assert_array_equal(bits(part), bits(whole))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_decode_over_several_key_ranges_is_prefill_to_the_bit(isa: str, kind: str) -> None:
    """The last 9 of 2055 tokens one by one, on other threads and blocks of other sizes, as in one step."""
    spec, total = RotarySpec(4, 2055, 10000.0), 2055
    qkv = random_floats(9, total, (4 + 2 * 2) * 4)
    whole = run_steps(cpu_ops(isa), qkv, cuts(total, 1000), 64, kind, 2, spec)
    for threads, block_size in ((1, 64), (2, 48), (3, 50)):
        single = [total - 9, *[1] * 9]
        part = run_steps(cpu_ops(isa, threads), qkv, single, block_size, kind, 2, spec)
        np.testing.assert_array_equal(bits(part), bits(whole))
    expected = run_steps(REFERENCE, qkv, cuts(total, 1000), 64, kind, 2, spec)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=tolerance(isa, kind))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_a_cache_gives_back_what_its_format_says(isa: str, kind: str) -> None:
    """One token attends to itself: out comes its value, as the golden model stores it."""
    sizes = np.array([1e-44, 1e-30, 1e-3, 1.0, 1e30, 0.0], np.float32)[:, None]
    qkv = random_floats(10, 6, 3 * 20) * sizes
    qkv[:, :40] = 0
    qkv[2, 40:] = np.arange(20) * 127 / 38  # codes on halves
    layout = Layout(tuple((0, 1) for _ in range(6)), 16, 6)
    ops, spec = cpu_ops(isa), RotarySpec(20, 8, 10000.0)
    cache_of = cache_spec(layout, 1, 20, kind)
    batch = make_batch(layout, np.arange(6, dtype=np.int32)[:, None])
    found = ops.attention(qkv, ops.pack_rotary(spec), ops.allocate_cache(cache_of), ops.upload(batch))
    scales = cache_of.scales.values if cache_of.scales else None
    values = np.ascontiguousarray(qkv[:, None, 40:])
    expected = through_cache(values, cache_of.dtype, scales)[:, 0]
    # The scale of a slot is a part of its weight.
    np.testing.assert_allclose(found, expected, rtol=2**-8 if rounds(isa, kind) and kind == "int8" else 0)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa in ROUNDING_ISAS])
@pytest.mark.parametrize("kind", [kind for kind in CACHE_KINDS if kind != "float32"])
def test_rounding_costs_what_a_bfloat16_number_does(isa: str, kind: str) -> None:
    """The error of all results together, against the golden model with the same cache."""
    spec, total = RotarySpec(128, 400, 500000.0), 300
    qkv = random_floats(13, total, (16 + 2 * 2) * 128)
    found, exact = (
        run_steps(ops, qkv, [total], 64, kind, 2, spec).astype(np.float64) for ops in (cpu_ops(isa), REFERENCE)
    )
    error = np.sqrt(((found - exact) ** 2).sum() / (exact**2).sum())
    assert 2**-14 < error < 2**-8


@pytest.mark.parametrize("size", [16, 128])
def test_a_new_cache_is_zeros_also_where_another_was(size: int) -> None:
    """Of 0.5 and 4 MiB an array: small ones are written, large ones get new pages from the kernel."""
    written, read = (Layout(((context, 64 - context),) * size, 64, size) for context in (0, 63))
    tables, ops, spec = (
        np.arange(size, dtype=np.int32)[:, None],
        cpu_ops(ISAS[-1]),
        RotarySpec(128, 64, 10000.0),
    )
    rotary, qkv = ops.pack_rotary(spec), random_floats(12, 64 * size, 3 * 128)
    for _ in range(3):  # malloc uses freed memory of this size again when it has met it once
        cache = ops.allocate_cache(cache_spec(written, 1, 128, "float32"))
        found = ops.attention(qkv[:size].copy(), rotary, cache, ops.upload(make_batch(read, tables)))
        scores = (qkv[:size, :128] * qkv[:size, 128:256]).sum(1) / np.sqrt(np.float32(128))
        weights = np.exp(scores) / (63 + np.exp(scores))
        np.testing.assert_allclose(found, weights[:, None] * qkv[:size, 256:], rtol=1e-4, atol=1e-6)
        ops.attention(qkv, rotary, cache, ops.upload(make_batch(written, tables)))
        del cache


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_nan_stays_in_its_sequence_and_after_its_token(isa: str, kind: str) -> None:
    """Stale slots of a block and later tokens of the same step are never touched, not even times zero."""
    spec, ops = RotarySpec(16, 100, 10000.0), cpu_ops(isa)
    qkv = random_floats(11, 40, (4 + 2 * 2) * 16)
    layout = Layout(((0, 40),), 64, 1)
    rotary, table = ops.pack_rotary(spec), np.zeros((1, 1), np.int32)
    clean = run_steps(ops, qkv, [40], 64, kind, 2, spec)
    cache = ops.allocate_cache(cache_spec(layout, 2, 16, kind))
    spoilt = qkv.copy()
    spoilt[25:] = np.nan
    for rows in (np.full_like(qkv, np.nan), spoilt):
        found = ops.attention(rows, rotary, cache, ops.upload(make_batch(layout, table)))
    np.testing.assert_array_equal(bits(found[:25]), bits(clean[:25]))
    assert np.isnan(found[25:]).all()
    short = Layout(((0, 5),), 64, 1)
    found = ops.attention(qkv[:5].copy(), rotary, cache, ops.upload(make_batch(short, table)))
    np.testing.assert_array_equal(bits(found), bits(clean[:5]))


@pytest.mark.parametrize("isa", ISAS)
def test_weights_have_the_stated_error_of_exp(isa: str) -> None:
    """Two keys with scores 0 and s: the weight of the second is exp(s) / (1 + exp(s)), seen in its value."""
    spec, ops = RotarySpec(4, 2, 10000.0), cpu_ops(isa)
    scores = np.linspace(-86, 0, 4000, dtype=np.float32)
    qkv = np.zeros((len(scores), 2, 12), np.float32)
    qkv[:, 1, 0], qkv[:, 1, 4] = 2, scores  # times head_dim ** -0.5 = 1 / 2
    qkv[:, 1, 8] = 1
    layout = Layout(tuple((0, 2) for _ in scores), 16, len(scores))
    batch = make_batch(layout, np.arange(len(scores), dtype=np.int32)[:, None])
    still = with_fields(batch, positions=np.zeros_like(batch.positions))
    cache = ops.allocate_cache(cache_spec(layout, 1, 4, "float32"))
    found = ops.attention(qkv.reshape(-1, 12), ops.pack_rotary(spec), cache, ops.upload(still))[1::2, 0]
    exact = np.exp(scores.astype(np.float64))
    np.testing.assert_allclose(found, exact / (1 + exact), rtol=2e-7 + 2e-7)


@pytest.mark.parametrize("isa", ISAS)
def test_neighbours_do_not_change_a_bit(isa: str) -> None:
    """A sequence alone and in a batch of four."""
    spec, ops = RotarySpec(16, 100, 10000.0), cpu_ops(isa)
    qkv = random_floats(6, 60, (4 + 2 * 2) * 16)
    layout = Layout(((0, 17), (0, 1), (0, 30), (0, 12)), 16, 20)
    tables = shuffled_tables(1, 4, 2, 20)
    rotary = ops.pack_rotary(spec)
    batch = make_batch(layout, tables)
    cache = ops.allocate_cache(cache_spec(layout, 2, 16, "float32"))
    together = ops.attention(qkv, rotary, cache, ops.upload(batch))
    alone = run_steps(ops, np.ascontiguousarray(qkv[18:48]), [30], 16, "float32", 2, spec)
    np.testing.assert_array_equal(bits(together[18:48]), bits(alone))


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_do_not_overflow(isa: str) -> None:
    """Scores of about 1e5 in rising and falling order: the weights are those of the largest key."""
    spec, ops = RotarySpec(16, 200, 10000.0), cpu_ops(isa)
    qkv = random_floats(7, 140, 3 * 16, scale=300.0)
    qkv[:70, 16:32] *= 0.01
    got = run_steps(ops, qkv, [140], 16, "float32", 1, spec)
    expected = run_steps(REFERENCE, qkv, [140], 16, "float32", 1, spec)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=20.0)
    np.testing.assert_array_equal(got[0], qkv[0, 32:])
