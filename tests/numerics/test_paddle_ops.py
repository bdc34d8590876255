"""The Paddle compositions on Paddle's CPU place: every op against the reference, on random and odd inputs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_kernels.api import ELSEWHERE, Batch, CacheSpec, Ops, RotarySpec
from ernie_kernels.cache_format import through_cache
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    Int4Weight,
    LinearWeight,
    W4A8Weight,
    dequantize,
    float32_to_bfloat16,
    quantize_int4,
    quantize_int8,
    quantize_w4a8,
    round_to_bfloat16,
)
from ernie_kernels.paddle import PaddleOps
from ernie_kernels.paddle.place import Place, paddle
from ernie_kernels.reference import ReferenceOps
from numerics.backends import to_host
from numerics.ops_cases import CACHE_KINDS, Layout, cache_spec

Floats = NDArray[np.float32]

PADDLE: Ops = PaddleOps("cpu")
REFERENCE: Ops = ReferenceOps()
FORMATS = ("float32", "bfloat16", "int8")

property_test = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weight(values: Floats, kind: str) -> LinearWeight:
    if kind == "float32":
        return Float32Weight(values)
    return Bfloat16Weight(float32_to_bfloat16(values)) if kind == "bfloat16" else quantize_int8(values)


def token_batch(tokens: list[int], logit_rows: list[int]) -> Batch:
    """One sequence whose tokens matter; for ops that read nothing else."""
    count = len(tokens)
    return Batch(
        token_ids=np.array(tokens, np.int32),
        positions=np.arange(count, dtype=np.int32),
        query_starts=np.array([0, count], np.int32),
        context_lengths=np.zeros(1, np.int32),
        block_tables=np.zeros((1, count), np.int32),
        logit_rows=np.array(logit_rows, np.int32),
    )


def on_paddle(x: Floats) -> Any:
    """An activation that PaddleOps takes."""
    return PADDLE.pack_vector(x)


def assert_close(found: Any, expected: Floats, tolerance: float = 1e-5) -> None:
    values = to_host(found)
    assert values.shape == expected.shape
    np.testing.assert_allclose(
        values, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max())
    )


@property_test
@given(seeds, st.integers(1, 9), st.integers(1, 300), st.integers(1, 40), st.sampled_from(FORMATS))
def test_linear(seed: int, tokens: int, inputs: int, outputs: int, kind: str) -> None:
    x, values = normal(seed, tokens, inputs), weight(normal(seed + 1, outputs, inputs), kind)
    packed = [ops.pack_linear(values, ActivationType.FLOAT32) for ops in (PADDLE, REFERENCE)]
    assert_close(PADDLE.linear(on_paddle(x), packed[0]), REFERENCE.linear(x, packed[1]))


@property_test
@given(seeds, st.integers(1, 9), st.integers(1, 300), st.booleans())
def test_linear_with_bfloat16_activations(seed: int, tokens: int, inputs: int, has_halves: bool) -> None:
    x, values = normal(seed, tokens, inputs), weight(normal(seed + 1, 24, inputs), "bfloat16")
    if has_halves:  # between two bfloat16 numbers, to round to the even one
        x = (x.view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)
    packed = [ops.pack_linear(values, ActivationType.BFLOAT16) for ops in (PADDLE, REFERENCE)]
    assert_close(PADDLE.linear(on_paddle(x), packed[0]), REFERENCE.linear(x, packed[1]))


@property_test
@given(seeds, st.integers(1, 9), st.integers(1, 300), st.sampled_from(["int8", "int4"]))
def test_quantized_weights_meet_bfloat16_activations(seed: int, tokens: int, inputs: int, kind: str) -> None:
    x, matrix = normal(seed, tokens, inputs), normal(seed + 1, 24, inputs)
    values = quantize_int8(matrix) if kind == "int8" else quantize_int4(matrix)
    found = PADDLE.linear(on_paddle(x), PADDLE.pack_linear(values, ActivationType.BFLOAT16))
    assert_close(found, round_to_bfloat16(x) @ dequantize(values).T)


@pytest.mark.parametrize("activation", [ActivationType.INT8, ActivationType.INT16])
def test_integer_activations_are_the_cpus(activation: ActivationType) -> None:
    with pytest.raises(ValueError, match=f"{activation.value} is for the CPU's .*bfloat16 or float32"):
        PADDLE.pack_linear(quantize_int8(normal(0, 3, 4)), activation)


@property_test
@given(seeds, st.integers(1, 9), st.integers(1, 70))
def test_norms(seed: int, tokens: int, width: int) -> None:
    x, delta, scale = normal(seed, tokens, width), normal(seed + 1, tokens, width), normal(seed + 2, width)
    x[0] = 0
    packed = PADDLE.pack_vector(scale)
    assert_close(PADDLE.norm(on_paddle(x), packed, 1e-5), REFERENCE.norm(x, scale, 1e-5))
    found = PADDLE.add_norm(on_paddle(x), on_paddle(delta), packed, 1e-5)
    expected = REFERENCE.add_norm(x, delta, scale, 1e-5)
    for pair in zip(found, expected, strict=True):
        assert_close(*pair)


@property_test
@given(seeds, st.integers(1, 9), st.integers(1, 40), st.integers(1, 150), st.sampled_from(FORMATS))
def test_mlp(seed: int, tokens: int, width: int, intermediate: int, kind: str) -> None:
    x = normal(seed, tokens, width) * 5
    gate_up = weight(normal(seed + 1, 2 * intermediate, width), kind)
    down = weight(normal(seed + 2, width, intermediate), kind)
    results = []
    for ops, given_x in ((PADDLE, on_paddle(x)), (REFERENCE, x)):
        packed = [ops.pack_linear(values, ActivationType.FLOAT32) for values in (gate_up, down)]
        results.append(ops.mlp(given_x, *packed))
    assert_close(*results)


@property_test
@given(seeds, st.lists(st.integers(ELSEWHERE, 29), min_size=1, max_size=9), st.sampled_from(FORMATS))
def test_embed_and_head(seed: int, tokens: list[int], kind: str) -> None:
    table, hidden = weight(normal(seed, 30, 16), kind), normal(seed + 1, len(tokens), 16)
    batch = token_batch(tokens, list(range(0, len(tokens), 2)))
    packed = [ops.pack_linear(table, ActivationType.FLOAT32) for ops in (PADDLE, REFERENCE)]
    assert_close(PADDLE.embed(packed[0], PADDLE.upload(batch)), REFERENCE.embed(packed[1], batch), 1e-7)
    logits = PADDLE.lm_head(on_paddle(hidden), packed[0], PADDLE.upload(batch)).logits
    np.testing.assert_allclose(logits, REFERENCE.lm_head(hidden, packed[1], batch).logits, rtol=1e-5, atol=1e-5)


def test_no_logits_wanted() -> None:
    packed = PADDLE.pack_linear(quantize_int8(normal(0, 30, 16)), ActivationType.FLOAT32)
    logits, _ = PADDLE.lm_head(on_paddle(normal(1, 3, 16)), packed, PADDLE.upload(token_batch([1, 2, 3], [])))
    assert logits.shape == (0, 30)


@property_test
@given(
    seeds,
    st.integers(1, 5),
    st.sampled_from([(2, 0), (6, 2), (128, 128), (256, 0), (384, 128)]),
    st.sampled_from([0.0, 1e-30, 0.5, 4.0]),
)
def test_w4a8(seed: int, tokens: int, width: tuple[int, int], absmax: float) -> None:
    """The same codes, so what is left is how sums are scaled."""
    inputs, rotation = width
    x = normal(seed, tokens, inputs)
    x[::3] *= 1e-20
    weight = quantize_w4a8(normal(seed + 1, 17, inputs), absmax, rotation)
    found, expected = (
        to_host(ops.linear(given, ops.pack_linear(weight, ActivationType.FLOAT32)))
        for ops, given in ((PADDLE, on_paddle(x)), (REFERENCE, x))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


def test_w4a8_with_numbers_that_are_not_finite_or_do_not_fit() -> None:
    x = normal(0, 4, 256)
    x[0, 3], x[1, 200], x[2, 0] = 1e30, np.nan, np.inf
    weight = quantize_w4a8(normal(1, 9, 256), 3.0, 128)
    found = to_host(PADDLE.linear(on_paddle(x), PADDLE.pack_linear(weight, ActivationType.FLOAT32)))
    assert (
        np.isnan(found).all(axis=1).tolist()
        == np.isnan(found).any(axis=1).tolist()
        == [False, True, True, False]
    )
    wide = W4A8Weight(Int4Weight(np.zeros((1, 8257), np.uint8), np.ones(1, np.float32), 16514), 1.0, 0)
    with pytest.raises(ValueError, match=r"16513 .*16514"):
        PADDLE.pack_linear(wide, ActivationType.FLOAT32)


@st.composite
def schedules(draw: st.DrawFn) -> list[list[int]]:
    """New tokens of each of some sequences in each of some steps; 0 leaves a sequence out."""
    sequences = draw(st.integers(1, 4))
    counts = st.lists(st.sampled_from([0, 1, 1, 2, 5]), min_size=sequences, max_size=sequences)
    return draw(st.lists(counts.filter(any), min_size=1, max_size=4))


@property_test
@given(
    seeds,
    schedules(),
    st.sampled_from([(1, 1), (4, 2), (6, 2), (3, 1)]),
    st.booleans(),
    st.sampled_from(CACHE_KINDS),
)
def test_attention(
    seed: int, schedule: list[list[int]], heads: tuple[int, int], is_interleaved: bool, kind: str
) -> None:
    """Several steps over one cache: contexts grow, sequences come and go, blocks lie anywhere."""
    num_heads, kv_heads = heads
    head_dim, block_size, blocks_each = 4 if kind.startswith("int8") else 6, 3, 7
    spec = cache_spec(Layout((), block_size, len(schedule[0]) * blocks_each), kv_heads, head_dim, kind)
    blocks = np.random.default_rng(seed).permutation(spec.num_blocks).reshape(-1, blocks_each).astype(np.int32)
    rotary = RotarySpec(head_dim, blocks_each * block_size, 10000.0, is_interleaved)
    tables = [ops.pack_rotary(rotary) for ops in (PADDLE, REFERENCE)]
    caches = [ops.allocate_cache(spec) for ops in (PADDLE, REFERENCE)]
    lengths = np.zeros(len(blocks), np.int32)
    for step, counts in enumerate(schedule):
        batch = attention_batch(np.array(counts, np.int32), lengths, blocks)
        qkv = normal(seed + step, sum(counts), (num_heads + 2 * kv_heads) * head_dim)
        found = PADDLE.attention(on_paddle(qkv), tables[0], caches[0], PADDLE.upload(batch))
        expected = REFERENCE.attention(qkv, tables[1], caches[1], REFERENCE.upload(batch))
        # A key that differs in its last bit may round to the next bfloat16 or code.
        assert_close(found, expected, 1e-5 if kind == "float32" else 2e-2)
        lengths += np.array(counts, np.int32)


def attention_batch(counts: NDArray[np.int32], lengths: NDArray[np.int32], blocks: NDArray[np.int32]) -> Batch:
    positions = [np.arange(start, start + count) for start, count in zip(lengths, counts, strict=True)]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Batch(
        token_ids=np.zeros(starts[-1], np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        query_starts=starts,
        context_lengths=lengths.copy(),
        block_tables=blocks,
        logit_rows=np.zeros(0, np.int32),
    )


def test_a_sequence_never_meets_the_numbers_of_another() -> None:
    """NaN of one sequence stays in it, although the other's shorter context is padded."""
    spec = CacheSpec(num_blocks=4, block_size=2, num_kv_heads=1, head_dim=4, dtype="float32")
    cache = PADDLE.allocate_cache(spec)
    batch = attention_batch(
        np.array([4, 1], np.int32), np.zeros(2, np.int32), np.array([[0, 1], [2, 3]], np.int32)
    )
    qkv = normal(0, 5, 12)
    qkv[:4] = np.nan
    rotary = PADDLE.pack_rotary(RotarySpec(4, 8, 10000.0))
    assert np.isfinite(to_host(PADDLE.attention(on_paddle(qkv), rotary, cache, PADDLE.upload(batch)))[4]).all()
    step = attention_batch(
        np.ones(2, np.int32), np.array([3, 1], np.int32), np.array([[0, 1], [2, 3]], np.int32)
    )
    result = to_host(PADDLE.attention(on_paddle(qkv[3:]), rotary, cache, PADDLE.upload(step)))
    assert np.isnan(result[0]).all()
    assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_a_cache_gives_back_what_its_format_says(kind: str) -> None:
    """Tokens attend to themselves: out comes their value, as the cache keeps it."""
    spec = cache_spec(Layout((), block_size=2, num_blocks=5), 1, 4, kind)
    qkv = normal(0, 5, 12) * np.array([1e-44, 1e-30, 1, 1e30, 0], np.float32)[:, None]
    qkv[:, :8] = 0
    batch = attention_batch(np.ones(5, np.int32), np.zeros(5, np.int32), np.arange(5, dtype=np.int32)[:, None])
    rotary = PADDLE.pack_rotary(RotarySpec(4, 8, 10000.0))
    result = PADDLE.attention(on_paddle(qkv), rotary, PADDLE.allocate_cache(spec), PADDLE.upload(batch))
    scales = spec.scales.values if spec.scales else None
    values = np.ascontiguousarray(qkv[:, None, 8:])
    np.testing.assert_array_equal(to_host(result), through_cache(values, spec.dtype, scales)[:, 0])


def test_int8_heads_must_fill_words() -> None:
    spec = CacheSpec(num_blocks=1, block_size=2, num_kv_heads=1, head_dim=6, dtype="int8")
    with pytest.raises(ValueError, match="multiple of 4; it is 6"):
        PADDLE.allocate_cache(spec)


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ([[0]], "batch.block_tables .*too short"),
        ([[0, 4]], "batch.block_tables has 4, expected 0 to 3"),
        ([[0, -1]], "batch.block_tables has -1, expected 0 to 3"),
    ],
)
def test_wrong_block_tables(blocks: list[list[int]], complaint: str) -> None:
    spec = CacheSpec(num_blocks=4, block_size=2, num_kv_heads=1, head_dim=4, dtype="float32")
    batch = attention_batch(np.array([3], np.int32), np.zeros(1, np.int32), np.array(blocks, np.int32))
    rotary = PADDLE.pack_rotary(RotarySpec(4, 8, 10000.0))
    with pytest.raises(ValueError, match=complaint):
        PADDLE.attention(on_paddle(normal(0, 3, 12)), rotary, PADDLE.allocate_cache(spec), PADDLE.upload(batch))


def test_wrong_tokens_and_positions() -> None:
    table = PADDLE.pack_linear(Float32Weight(normal(0, 30, 4)), ActivationType.FLOAT32)
    with pytest.raises(ValueError, match=r"batch.token_ids has 30, expected 0 to 29"):
        PADDLE.embed(table, PADDLE.upload(token_batch([30], [])))
    spec = CacheSpec(num_blocks=4, block_size=2, num_kv_heads=1, head_dim=4, dtype="float32")
    batch = attention_batch(np.array([3], np.int32), np.zeros(1, np.int32), np.array([[0, 1]], np.int32))
    rotary = PADDLE.pack_rotary(RotarySpec(4, 2, 10000.0))
    with pytest.raises(ValueError, match=r"batch.positions has 2, expected 0 to 1"):
        PADDLE.attention(on_paddle(normal(0, 3, 12)), rotary, PADDLE.allocate_cache(spec), PADDLE.upload(batch))


@pytest.mark.parametrize("place", ["gpu:0", "xpu", "xpu:a", ""])
def test_unknown_places(place: str) -> None:
    with pytest.raises(ValueError, match="choose cpu or xpu:0"):
        PaddleOps(place)


def test_no_xpu_in_this_paddle() -> None:
    with pytest.raises(RuntimeError, match="paddlepaddle-xpu"):
        PaddleOps("xpu:0")


def test_no_variable_slows_all_products_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """XPU_PADDLE_FC_FLOAT, meant for routers, would take bfloat16 products off the fast matrix units."""
    monkeypatch.setattr(paddle, "is_compiled_with_xpu", lambda: True)
    monkeypatch.setattr(paddle, "set_device", lambda name: None)
    before = dict(os.environ)
    assert Place.select("xpu:0").dtype == "bfloat16"
    assert dict(os.environ) == before
