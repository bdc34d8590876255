"""Runs steps of a model with experts, whose launches ``test_fastdeploy_budgets`` counts in its log.

In the last of these, tokens are chosen on the device. Steps of a model that sees follow, so that all kernels of
Paddle are in the log.
"""

from __future__ import annotations

import numpy as np

from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import ActivationType
from ernie_kernels.sampling import GREEDY, SamplingFilters, TokenChoices, sampling_batch
from fakes.paddle_bfloat16 import mark
from numerics.fastdeploy_ops import fastdeploy_ops
from numerics.generation import Driver, generate, load
from numerics.golden import checkpoint, golden_cases


def main() -> None:
    with fastdeploy_ops(Lineage.DEVELOP, is_logged=True) as ops:
        model = load(checkpoint("moe300b"), ops, "bfloat16", "wint4", ActivationType.BFLOAT16)
        driver = Driver(model, ops, 2)
        sampling = sampling_batch([(GREEDY, 0.0), (SamplingFilters(0.8, top_k=50, top_p=0.9), 0.5)])
        choices = TokenChoices(np.array([0, 1], np.int32), sampling, model.config.vocab_size)
        for pieces, chosen in (
            ({0: [5, 6, 7], 1: [8, 9]}, None),
            ({0: [10], 1: [11]}, None),
            ({0: [12], 1: [13]}, choices),
        ):
            mark("step begins")
            driver.step(pieces, choices=chosen)
            mark("step ends")
        model = load(checkpoint("vl_moe"), ops, "bfloat16", "wint8", ActivationType.BFLOAT16)
        prompts = [case.prompt for case in golden_cases("vl_moe").values()][:2]
        generate(model, ops, prompts, num_tokens=2, chunk=20)


if __name__ == "__main__":
    main()
