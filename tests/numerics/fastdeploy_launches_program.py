"""Runs two steps of a model with experts; ``test_fastdeploy_ops`` counts launches in its log."""

from __future__ import annotations

from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import ActivationType
from fakes.paddle_bfloat16 import mark
from numerics.fastdeploy_ops import fastdeploy_ops
from numerics.generation import Driver, load
from numerics.golden import checkpoint


def main() -> None:
    with fastdeploy_ops(Lineage.DEVELOP, is_logged=True) as ops:
        model = load(checkpoint("moe300b"), ops, "bfloat16", "wint4", ActivationType.BFLOAT16)
        driver = Driver(model, ops, 2)
        for pieces in ({0: [5, 6, 7], 1: [8, 9]}, {0: [10], 1: [11]}):
            mark("step begins")
            driver.step(pieces)
            mark("step ends")


if __name__ == "__main__":
    main()
