"""Runs models on Paddle's CPU place; ``test_paddle_kl3_audit`` reads kernels and products from its log.

Prefill in chunks and decode in a ragged batch, in every format, activation type and cache, dense and with
experts, with images and videos; what these models never have, op by op. First in float32, then in bfloat16 as
on an XPU, over stand-ins for the kernels that the CPU place lacks, which write to the log what Paddle would.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from ernie_kernels.api import ELSEWHERE, Ops, RotarySpec
from ernie_kernels.formats import ActivationType, Bfloat16Weight, float32_to_bfloat16, quantize_w4a8
from ernie_kernels.paddle import PaddleOps
from ernie_kernels.paddle.place import paddle
from ernie_kernels.sampling import GREEDY, SamplingFilters, TokenChoices, sampling_batch
from fakes.paddle_bfloat16 import bfloat16, bfloat16_kernels, bfloat16_ops
from numerics.generation import generate, load
from numerics.golden import checkpoint, golden_cases, golden_rows
from numerics.ops_cases import Layout, cache_spec, plain_batch, random_floats

SETTINGS = (
    ("dense", "float32", None, ActivationType.FLOAT32, None),
    ("dense", "bfloat16", None, ActivationType.FLOAT32, None),
    ("dense", "bfloat16", None, ActivationType.BFLOAT16, None),
    ("dense", "bfloat16", "wint8", ActivationType.FLOAT32, "int8"),
    ("moe", "float32", None, ActivationType.FLOAT32, None),
    ("moe", "bfloat16", "wint4", ActivationType.BFLOAT16, None),
    ("moe300b", "bfloat16", "wint8", ActivationType.FLOAT32, None),
)
IN_BFLOAT16 = (
    ("dense", None, None),
    ("dense", "wint8", "int8"),
    ("moe", None, None),
    ("moe300b", "wint4", None),
)


def main() -> None:
    log_products()
    ops = PaddleOps("cpu")
    for family, dtype, quantization, activation, cache_dtype in SETTINGS:
        prompts = [row.prompt for row in golden_rows(family)]
        model = load(checkpoint(family), ops, dtype, quantization, activation)
        generate(model, ops, prompts, num_tokens=3, chunk=7, cache_dtype=cache_dtype)
    see(ops, "float32", None, ActivationType.FLOAT32)
    multiply_w4a8(ops)
    attend_with_static_scales(ops)
    choose_tokens(ops)
    with bfloat16_kernels(is_logged=True):
        log_products()
        run_in_bfloat16(bfloat16_ops())


def run_in_bfloat16(ops: Ops) -> None:
    for family, quantization, cache_dtype in IN_BFLOAT16:
        prompts = [row.prompt for row in golden_rows(family)[:3]]
        model = load(checkpoint(family), ops, "bfloat16", quantization, ActivationType.BFLOAT16)
        generate(model, ops, prompts, num_tokens=3, chunk=7, cache_dtype=cache_dtype)
    see(ops, "bfloat16", "wint8", ActivationType.BFLOAT16)
    x = bfloat16(random_floats(2, 3, 256))
    ops.linear(x, ops.pack_linear(quantize_w4a8(random_floats(1, 16, 256), 3.0, 128), ActivationType.BFLOAT16))
    table = ops.pack_linear(
        Bfloat16Weight(float32_to_bfloat16(random_floats(4, 9, 8))), ActivationType.BFLOAT16
    )
    choose_tokens(ops)
    ops.embed(table, ops.upload(replace(plain_batch(5), token_ids=np.array([0, ELSEWHERE, 3, 8, 1], np.int32))))


def see(ops: Ops, dtype: str, quantization: str | None, activation: ActivationType) -> None:
    """Encode an image and a video, and continue prompts with and without media."""
    for family, grids in (("vl_moe", ((1, 4, 6), (4, 4, 4))), ("paddleocr_vl", ((1, 4, 6),))):
        model = load(checkpoint(family), ops, dtype, quantization, activation)
        assert model.vision is not None
        for frames, height, width in grids:
            pixels = ops.upload_rows(random_floats(5, frames * height * width, 588))
            for _ in model.vision.encode(pixels, (frames, height, width)):
                pass
        prompts = [case.prompt for case in golden_cases(family).values()]
        generate(model, ops, prompts[:3], num_tokens=3, chunk=9)


def log_products() -> None:
    """Write the shapes of every ``paddle.matmul`` into the log, where Paddle itself names only the kernel."""
    multiply = paddle.matmul

    def matmul(x: Any, y: Any, *arguments: Any, **keywords: Any) -> Any:
        sys.stderr.write(f"product of shapes {list(x.shape)} and {list(y.shape)}\n")
        return multiply(x, y, *arguments, **keywords)

    paddle.matmul = matmul


def multiply_w4a8(ops: Ops) -> None:
    weight = quantize_w4a8(random_floats(1, 16, 256), 3.0, rotation=128)
    ops.linear(paddle.to_tensor(random_floats(2, 3, 256)), ops.pack_linear(weight, ActivationType.FLOAT32))


def attend_with_static_scales(ops: Ops) -> None:
    cache = ops.allocate_cache(cache_spec(Layout((), 16, 1), 1, 4, "int8-static"))
    qkv, rotary = paddle.to_tensor(random_floats(3, 5, 3 * 4)), ops.pack_rotary(RotarySpec(4, 8, 10000.0))
    ops.attention(qkv, rotary, cache, ops.upload(plain_batch(5)))


def choose_tokens(ops: Ops) -> None:
    """Choose for greedy and random rows beside one for the host."""
    sampling = sampling_batch(
        [(GREEDY, 0.0), (SamplingFilters(0.8, 0.1, 9, 0.7), 0.3), (SamplingFilters(), 0.6)]
    )
    choices = TokenChoices(np.array([0, 2, 3], np.int32), sampling, 60)
    table = ops.pack_linear(
        Bfloat16Weight(float32_to_bfloat16(random_floats(4, 64, 8))), ActivationType.BFLOAT16
    )
    batch = ops.upload(replace(plain_batch(4), logit_rows=np.arange(4, dtype=np.int32), choices=choices))
    ops.lm_head(ops.embed(table, batch), table, batch)


if __name__ == "__main__":
    main()
