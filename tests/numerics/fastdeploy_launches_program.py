"""Runs two steps of a model with experts, whose launches ``test_fastdeploy_budgets`` counts in its log; and one
that sees, so that all kernels of Paddle are in it."""

from __future__ import annotations

from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import ActivationType
from fakes.paddle_bfloat16 import mark
from numerics.fastdeploy_ops import fastdeploy_ops
from numerics.generation import Driver, generate, load
from numerics.golden import checkpoint, golden_cases


def main() -> None:
    with fastdeploy_ops(Lineage.DEVELOP, is_logged=True) as ops:
        model = load(checkpoint("moe300b"), ops, "bfloat16", "wint4", ActivationType.BFLOAT16)
        driver = Driver(model, ops, 2)
        for pieces in ({0: [5, 6, 7], 1: [8, 9]}, {0: [10], 1: [11]}):
            mark("step begins")
            driver.step(pieces)
            mark("step ends")
        model = load(checkpoint("vl_moe"), ops, "bfloat16", "wint8", ActivationType.BFLOAT16)
        prompts = [case.prompt for case in golden_cases("vl_moe").values()][:2]
        generate(model, ops, prompts, num_tokens=2, chunk=20)


if __name__ == "__main__":
    main()
