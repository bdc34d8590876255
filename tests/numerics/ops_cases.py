"""Inputs for the tests of ops: weights of each format, ragged batches, and the instruction sets to try."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import CACHE_DTYPES, Batch, CacheScales, CacheSpec
from ernie_kernels.cpu import CpuOps, instruction_sets
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    LinearWeight,
    float32_to_bfloat16,
    quantize_grouped_int4,
    quantize_int4,
    quantize_int8,
)

Floats = NDArray[np.float32]

ISAS = instruction_sets(include_lowered=True)

WEIGHT_TYPES = [
    ("float32", ActivationType.FLOAT32),
    ("bfloat16", ActivationType.FLOAT32),
    ("bfloat16", ActivationType.BFLOAT16),
    ("int8", ActivationType.FLOAT32),
    ("int8", ActivationType.INT16),
    ("int8", ActivationType.INT8),
    ("int4", ActivationType.FLOAT32),
    ("int4", ActivationType.INT16),
    ("int4", ActivationType.INT8),
    ("int4 in groups", ActivationType.FLOAT32),
    ("int4 in groups", ActivationType.INT16),
    ("int4 in groups", ActivationType.INT8),
]

CACHE_KINDS = (*CACHE_DTYPES, "int8-static")
"""How a cache stores numbers; ``int8-static``: int8 with a scale for each channel instead of each token."""


QUANTIZED_ACTIVATIONS = [activation for name, activation in WEIGHT_TYPES if name == "int8"]
"""The activation types that fit quantized weights."""


@cache
def cpu_ops(instruction_set: str, threads: int = 2) -> CpuOps:
    """Return one CpuOps per argument, so that tests do not start threads each time."""
    return CpuOps(threads, instruction_set)


def random_floats(seed: int, *shape: int, scale: float = 1.0) -> Floats:
    """Return normal float32 numbers."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def make_weight(values: Floats, name: str) -> LinearWeight:
    """Return ``values`` in the format ``name``."""
    if name == "float32":
        return Float32Weight(values)
    if name == "bfloat16":
        return Bfloat16Weight(float32_to_bfloat16(values))
    if name == "int4 in groups":
        return quantize_grouped_int4(values)
    return quantize_int8(values) if name == "int8" else quantize_int4(values)


@dataclass(frozen=True)
class Layout:
    """Sequences of a step: (context, new tokens) each, over blocks of ``block_size`` tokens."""

    sequences: tuple[tuple[int, int], ...]
    block_size: int
    num_blocks: int


def make_batch(layout: Layout, tables: NDArray[np.int32]) -> Batch:
    """Return the step of a layout; token ids count up, all rows want logits."""
    lengths = [new for _, new in layout.sequences]
    total = sum(lengths)
    positions = [np.arange(context, context + new) for context, new in layout.sequences]
    return Batch(
        token_ids=np.arange(total, dtype=np.int32),
        positions=np.concatenate([*positions, np.zeros(0)]).astype(np.int32),
        query_starts=np.cumsum([0, *lengths]).astype(np.int32),
        context_lengths=np.array([context for context, _ in layout.sequences], np.int32),
        block_tables=tables,
        logit_rows=np.arange(total, dtype=np.int32),
    )


def shuffled_tables(seed: int, sequences: int, blocks: int, num_blocks: int) -> NDArray[np.int32]:
    """Return block tables ``[sequences, blocks]`` of distinct blocks in random order, then one -1."""
    order = np.random.default_rng(seed).permutation(num_blocks)[: sequences * blocks]
    tables = np.full((sequences, blocks + 1), -1, np.int32)
    tables[:, :blocks] = order.reshape(sequences, blocks)
    return tables


def plain_batch(tokens: int) -> Batch:
    """Return one sequence of ``tokens`` new tokens in blocks of 16."""
    blocks = -(-tokens // 16)
    table = np.arange(blocks, dtype=np.int32)[None]
    return make_batch(Layout(((0, tokens),), 16, max(1, blocks)), table)


def with_fields(batch: Batch, **fields: Any) -> Batch:
    """Return the batch with other arrays."""
    return replace(batch, **fields)


def cache_spec(layout: Layout, kv_heads: int, head_dim: int, kind: str) -> CacheSpec:
    """Return the cache of a layout, of one of ``CACHE_KINDS``."""
    dtype, _, static = kind.partition("-")
    scales = static_scales(kv_heads, head_dim) if static else None
    return CacheSpec(layout.num_blocks, layout.block_size, kv_heads, head_dim, dtype, scales)


def static_scales(kv_heads: int, head_dim: int) -> CacheScales:
    """Return scales that cut some normal numbers and differ by channel; one of the values' is 0."""
    steps = np.random.default_rng(kv_heads * head_dim).uniform(0.01, 0.03, (2, kv_heads, head_dim))
    keys, values = steps.astype(np.float32)
    values[-1, -1] = 0
    return CacheScales(keys, values)


def bits(x: Floats) -> NDArray[np.uint32]:
    """Return the bits of float32 numbers, to compare exactly."""
    return np.ascontiguousarray(x).view(np.uint32)
