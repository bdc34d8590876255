"""Runs the dense model on Paddle's CPU place; ``test_paddle_kl3_audit`` reads the kernels from its log.

Prefill in chunks and decode in a ragged batch, in every format, activation type and cache.
"""

from __future__ import annotations

from ernie_kernels.formats import ActivationType
from ernie_kernels.xpu import PaddleOps
from numerics.generation import generate, load
from numerics.golden import DIRECTORIES, golden_rows

SETTINGS = (
    ("float32", None, ActivationType.FLOAT32, None),
    ("bfloat16", None, ActivationType.FLOAT32, None),
    ("bfloat16", None, ActivationType.BFLOAT16, None),
    ("bfloat16", "wint8", ActivationType.FLOAT32, None),
    ("bfloat16", "wint8", ActivationType.INT8, None),
    ("bfloat16", "wint8", ActivationType.INT16, "int8"),
)


def main() -> None:
    ops = PaddleOps("cpu")
    prompts = [row.prompt for row in golden_rows()]
    for dtype, quantization, activation, cache_dtype in SETTINGS:
        model = load(DIRECTORIES["hf"], ops, dtype, quantization, activation)
        generate(model, ops, prompts, num_tokens=3, chunk=7, cache_dtype=cache_dtype)


if __name__ == "__main__":
    main()
