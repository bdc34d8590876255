"""attention of CpuOps against ReferenceOps: ragged, chunked, paged, both cache types, both rotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ernie_kernels.api import RotarySpec
from ernie_kernels.reference import ReferenceOps
from numerics.ops_cases import (
    ISAS,
    Floats,
    Layout,
    bits,
    cache_spec,
    cpu_ops,
    make_batch,
    random_floats,
    shuffled_tables,
)

REFERENCE = ReferenceOps()
DTYPES = ["float32", "bfloat16"]


def run_steps(
    ops: Any, qkv: Floats, chunks: list[int], block_size: int, dtype: str, kv_heads: int, spec: RotarySpec
) -> Floats:
    """Return the attention of one sequence, ``qkv`` row by row, cut into chunks."""
    blocks = -(-len(qkv) // block_size)
    layout = Layout((), block_size, blocks + 3)
    cache = ops.allocate_cache(cache_spec(layout, kv_heads, spec.head_dim, dtype))
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
@pytest.mark.parametrize("dtype", DTYPES)
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
    isa: str, dtype: str, heads: int, kv_heads: int, head_dim: int, interleaved: bool
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
        cache, rotary = ops.allocate_cache(cache_spec(first, kv_heads, head_dim, dtype)), ops.pack_rotary(spec)
        for seed, layout in enumerate((first, second)):
            batch = make_batch(layout, tables)
            qkv = random_floats(seed, len(batch.token_ids), width, scale=2.0)
            results.append(ops.attention(qkv, rotary, cache, ops.upload(batch)))
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5, atol=2e-5)
    # a key within a float32 rounding of a bfloat16 boundary may be stored one step apart
    np.testing.assert_allclose(results[3], results[1], rtol=1e-5, atol=2e-5 if dtype == "float32" else 2e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_blocks_and_threads_do_not_change_a_bit(isa: str, dtype: str) -> None:
    spec = RotarySpec(24, 200, 10000.0)
    qkv = random_floats(5, 150, (6 + 2 * 2) * 24)
    whole = run_steps(cpu_ops(isa), qkv, [150], 16, dtype, 2, spec)
    for block_size in (1, 7, 16, 64, 256):
        for chunks in ([150], [1] * 20 + [130], [64, 64, 22], [7] * 21 + [3]):
            part = run_steps(cpu_ops(isa, 1 + block_size % 3), qkv, chunks, block_size, dtype, 2, spec)
            np.testing.assert_array_equal(bits(part), bits(whole))


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
