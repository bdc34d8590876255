"""Misfits raise ValueError with the field and its value, on every backend that could read out of bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_kernels.api import Batch, CacheSpec, RotarySpec
from ernie_kernels.cpu import CpuOps, _cpu, instruction_sets
from ernie_kernels.formats import (
    ActivationType,
    Float32Weight,
    Int4Weight,
    Int8Weight,
    float32_to_bfloat16,
    quantize_grouped_int4,
)
from ernie_kernels.reference import ReferenceOps
from numerics.ops_cases import plain_batch, random_floats, with_fields

OPS: list[Any] = [ReferenceOps(), CpuOps(1)]
FLOAT32 = ActivationType.FLOAT32


def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


@pytest.mark.parametrize("ops", OPS, ids=["reference", "cpu"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_rows": int32(3)}, r"logit_rows has 3, expected 0 to 2"),
        ({"logit_rows": int32(-1)}, r"logit_rows has -1"),
        ({"query_starts": int32(0, 2)}, r"query_starts \[0, 2\]"),
        ({"query_starts": int32(1, 3)}, r"query_starts \[1, 3\]"),
        ({"query_starts": int32(0, 1, 3)}, r"query_starts has length 3, expected 2"),
        ({"positions": int32(0)}, r"positions is int32 \(1,\), expected int32 \(3,\)"),
        ({"positions": int32(0, 1, 2)[None, None]}, r"positions .*\(1, 1, 3\)"),
        ({"media_rows": int32(1, 3)}, "media_rows has 3, expected 0 to 2"),
        ({"media_rows": int32(1)[None]}, r"media_rows is int32 \(1, 1\)"),
        ({"vision_rows": int32(-1)}, "vision_rows has -1"),
        ({"vision_rows": int32(2, 1)}, r"vision_rows \[2, 1\] must rise"),
        ({"vision_rows": int32(1, 1)}, r"vision_rows \[1, 1\] must rise"),
        ({"context_lengths": int32(-1)}, r"context_lengths \[-1\]"),
        ({"token_ids": np.zeros(3, np.int64)}, r"token_ids is int64"),
        ({"block_tables": int32(0)}, r"block_tables is int32 \(1,\)"),
    ],
)
def test_upload_refuses_a_batch_that_does_not_fit(
    ops: Any, fields: dict[str, NDArray[np.int32]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ops.upload(with_fields(plain_batch(3), **fields))


def attention(ops: Any, batch: Batch, width: int = 4 * 8, positions: int = 8) -> None:
    cache = ops.allocate_cache(CacheSpec(2, 4, 1, 8, "float32"))
    rotary = ops.pack_rotary(RotarySpec(8, positions, 10000.0))
    ops.attention(random_floats(1, len(batch.token_ids), width), rotary, cache, ops.upload(batch))


@pytest.mark.parametrize("ops", OPS, ids=["reference", "cpu"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": int32(0, 8, 2)}, r"positions has 8, expected 0 to 7"),
        ({"positions": int32(0, -1, 2)}, r"positions has -1"),
        ({"positions": int32(0, 1, 2)[None].repeat(3, 0)}, r"positions .*3"),
        ({"block_tables": int32(2)[None]}, r"block_tables has 2, expected 0 to 1"),
        ({"block_tables": int32(-1)[None]}, r"block_tables has -1"),
        ({"context_lengths": int32(4)}, "block table .*too short"),
        ({"context_lengths": int32(2**31 - 2)}, "block table .*too short"),
    ],
)
def test_attention_refuses_indices_out_of_bounds(
    ops: Any, fields: dict[str, NDArray[np.int32]], message: str
) -> None:
    attention(ops, plain_batch(3))
    with pytest.raises(ValueError, match=message):
        attention(ops, with_fields(plain_batch(3), **fields))


@pytest.mark.parametrize("ops", OPS, ids=["reference", "cpu"])
@pytest.mark.parametrize("token", [-2, 9])
def test_embed_refuses_unknown_tokens(ops: Any, token: int) -> None:
    table = ops.pack_linear(Float32Weight(random_floats(1, 9, 4)), FLOAT32)
    batch = with_fields(plain_batch(2), token_ids=int32(0, token))
    with pytest.raises(ValueError, match=rf"token_ids has {token}, expected 0 to 8"):
        ops.embed(table, ops.upload(batch))


def cpu_misfits() -> dict[str, tuple[Callable[[], object], str]]:
    ops, x = CpuOps(1), random_floats(1, 2, 8)
    weight = ops.pack_linear(Float32Weight(random_floats(2, 5, 8)), FLOAT32)
    odd = ops.pack_linear(Float32Weight(random_floats(2, 6, 8)), FLOAT32)
    batch = ops.upload(plain_batch(4))
    codes = np.zeros((2, 3), np.int8)
    grouped = quantize_grouped_int4(random_floats(4, 2, 6))
    scale_bits = float32_to_bfloat16(grouped.scales)
    return {
        "linear width": (lambda: ops.linear(x[:, :4].copy(), weight), "columns is 4, expected 8"),
        "linear dtype": (lambda: ops.linear(x.astype(np.float64), weight), "x has 2 dimensions and items 'd'"),
        "linear strides": (lambda: ops.linear(x[:, ::2], weight), "x must be a C-contiguous array"),
        "norm weight": (lambda: ops.norm(x, x[0, :5].copy(), 1e-5), "weight length is 5, expected 8"),
        "delta rows": (lambda: ops.add_norm(x, x[:1], x[0], 1e-5), "delta rows is 1, expected 2"),
        "mlp inner": (lambda: ops.mlp(x, odd, weight), "gate_up outputs is 6, expected 16"),
        "lm_head rows": (lambda: ops.lm_head(x, weight, batch), "logit_rows has 2, expected 0 to 1"),
        "attention width": (lambda: attention(ops, plain_batch(3), width=30), "qkv columns 30 do not fit"),
        "attention heads": (lambda: attention(ops, plain_batch(3), width=16), "qkv columns 16 do not fit"),
        "empty weight": (
            lambda: ops.pack_linear(Float32Weight(x[:0]), FLOAT32),
            "weight rows 0 must be positive",
        ),
        "scales": (
            lambda: ops.pack_linear(Int8Weight(codes, np.ones(3, np.float32)), FLOAT32),
            "scales has length 3, expected 2",
        ),
        "code -128": (
            lambda: ops.pack_linear(
                Int8Weight(np.full((2, 3), -128, np.int8), np.ones(2, np.float32)), FLOAT32
            ),
            "code -128",
        ),
        "activation": (
            lambda: _cpu.Ops(1, "").pack_int8(codes, np.ones(2, np.float32), "bfloat16", 128),
            "activation bfloat16 goes with bfloat16 weights only",
        ),
        "int4 inputs": (
            lambda: ops.pack_linear(Int4Weight(np.zeros((2, 3), np.uint8), np.ones(2, np.float32), 7), FLOAT32),
            "packed has 3 columns, expected 4 for 7 inputs",
        ),
        "int4 without inputs": (
            lambda: ops.pack_linear(
                Int4Weight(np.zeros((2, 0), np.uint8), np.ones(2, np.float32), -1), FLOAT32
            ),
            "weight columns -1 must be positive",
        ),
        "int4 scales": (
            lambda: ops.pack_linear(Int4Weight(np.zeros((2, 3), np.uint8), np.ones(1, np.float32), 6), FLOAT32),
            "scales has length 1, expected 2",
        ),
        "activation group": (
            lambda: _cpu.Ops(1, "").pack_int8(codes, np.ones(2, np.float32), "int16", 2048),
            "activation group 2048 must be a multiple of 32 up to 1024",
        ),
        "no activation group": (
            lambda: _cpu.Ops(1, "").pack_grouped_int4(grouped.packed, 6, scale_bits, "int8", 0),
            "activation group 0 must be a multiple of 32",
        ),
        "activation group across scales": (
            lambda: _cpu.Ops(1, "").pack_grouped_int4(grouped.packed, 6, scale_bits, "int16", 96),
            "activation group 96 must divide the 64 inputs of a scale of the weight, or be a multiple",
        ),
        "cache size": (lambda: ops.allocate_cache(CacheSpec(0, 4, 1, 8, "float32")), "num_blocks 0 must be"),
        "cache dtype": (lambda: ops.allocate_cache(CacheSpec(1, 4, 1, 8, "int4")), "dtype 'int4' must be"),
        "odd head_dim": (lambda: ops.pack_rotary(RotarySpec(7, 4, 1e4)), "head_dim 7 must be even"),
        "threads": (lambda: CpuOps(0), "threads 0 must be 1 to 1024"),
        "instruction set": (lambda: CpuOps(1, "mmx"), "instruction set 'mmx'"),
    }


@pytest.mark.parametrize("name", list(cpu_misfits()))
def test_cpu_ops_refuse_misfits(name: str) -> None:
    call, message = cpu_misfits()[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("isa", instruction_sets(include_lowered=True))
def test_the_environment_names_the_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERNIE_CPU_ISA", isa)
    assert CpuOps(1).instruction_set == isa
    assert CpuOps(1, "scalar").instruction_set == "scalar"


def test_the_default_is_the_best_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERNIE_CPU_ISA", raising=False)
    assert CpuOps(1).instruction_set == instruction_sets()[-1]
    monkeypatch.setenv("ERNIE_CPU_ISA", "sse9")
    with pytest.raises(ValueError, match=r"'sse9' .*scalar"):
        CpuOps(1)
