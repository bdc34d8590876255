"""Two ranks on ``FastDeployOps``: the answers of the reference, up to what bfloat16 sums round."""

from __future__ import annotations

import json

import numpy as np
import pytest

from numerics.fastdeploy_ops import FastDeployReference
from numerics.fastdeploy_rank_program import NUM_TOKENS
from numerics.generation import load, prompt_logits
from numerics.golden import checkpoint, cosine, golden_rows
from numerics.test_paddle_ranks import run_ranks
from support.free_ports import free_port


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "quantization"),
    [("moe_tp", "wint4"), pytest.param("dense", "wint8", marks=pytest.mark.full)],
)
def test_two_ranks_answer_as_the_reference(family: str, quantization: str) -> None:
    master = f"127.0.0.1:{free_port()}"
    arguments = [[family, quantization, str(rank), "2", master] for rank in range(2)]
    printed, _ = run_ranks(arguments, "numerics.fastdeploy_rank_program")
    found = np.array(json.loads(printed), np.float32)
    reference = FastDeployReference()
    model = load(checkpoint(family), reference, "bfloat16", quantization)
    for index, row in enumerate(golden_rows(family)):
        text = row.prompt + row.greedy[:NUM_TOKENS]
        expected = prompt_logits(model, reference, text)[len(row.prompt) - 1 :]
        assert cosine(found[:, index], expected) > 0.99
