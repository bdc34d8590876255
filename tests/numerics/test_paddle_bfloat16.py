"""The composed ops in bfloat16, as an XPU runs them, over stand-ins for kernels that the CPU place lacks.

Against a reference that rounds to bfloat16 where they do. What is between two bfloat16 numbers may go to the
other one, and a token to another expert: that is allowed in few rows. In all others the answers are the same,
unless two tokens are all but equally likely.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ernie_kernels.api import ELSEWHERE
from ernie_kernels.formats import ActivationType, Bfloat16Weight, float32_to_bfloat16
from ernie_kernels.paddle import PaddleOps, linear
from fakes.paddle_bfloat16 import bfloat16, bfloat16_kernels, bfloat16_ops, floats
from numerics.bfloat16_reference import Bfloat16Reference
from numerics.generation import load, prompt_logits
from numerics.golden import FAMILIES, Floats, checkpoint, cosine, golden_rows
from numerics.test_paddle_ops import normal, token_batch

COSINE = 0.9995
MOST_MOVED_ROWS = 0.15
"""Experts of these random models are close to each other; 0.1 was seen."""
LEAST_COSINE = 0.9
TIE = 0.5
"""Two steps of bfloat16 between 16 and 32, where the largest logits are."""
MODELS = [
    *((family, None) for family in FAMILIES),
    ("dense", "wint8"),
    ("moe", "wint4"),
    ("moe300b", "wint8"),
    ("moe_tp", "wint8"),
]


@pytest.fixture(scope="module")
def ops() -> Iterator[PaddleOps]:
    with bfloat16_kernels():
        yield bfloat16_ops()


def logits_of(ops: PaddleOps | Bfloat16Reference, family: str, quantization: str | None) -> Floats:
    """Of every token of every prompt and its greedy answer, in chunks."""
    model = load(checkpoint(family), ops, "bfloat16", quantization, ActivationType.BFLOAT16)
    texts = [row.prompt + row.greedy for row in golden_rows(family)[1:3]]
    return np.concatenate([prompt_logits(model, ops, text, 7) for text in texts])


def assert_same_answers(found: Floats, expected: Floats) -> None:
    is_same = np.array(
        [cosine(*rows) >= COSINE for rows in zip(found[:, None], expected[:, None], strict=True)]
    )
    assert is_same.mean() >= 1 - MOST_MOVED_ROWS
    assert cosine(found, expected) >= LEAST_COSINE
    best, chosen = expected.max(axis=1), np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)
    assert (best - chosen[:, 0] <= TIE)[is_same].all()


@pytest.mark.parametrize(("family", "quantization"), MODELS)
def test_models_in_bfloat16(ops: PaddleOps, family: str, quantization: str | None) -> None:
    found = logits_of(ops, family, quantization)
    assert_same_answers(found, logits_of(Bfloat16Reference(), family, quantization))
    np.testing.assert_array_equal(found, floats(bfloat16(found)), err_msg="the head is not bfloat16")


def test_scales_of_another_convention_are_noticed(ops: PaddleOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_CODE_OF_ABSMAX", np.float32(1))
    found = logits_of(ops, "dense", "wint8")
    with pytest.raises(AssertionError):
        assert_same_answers(found, logits_of(Bfloat16Reference(), "dense", "wint8"))


def test_rows_of_other_ranks_are_zeros(ops: PaddleOps) -> None:
    table = normal(0, 30, 16)
    packed = ops.pack_linear(Bfloat16Weight(float32_to_bfloat16(table)), ActivationType.BFLOAT16)
    batch = token_batch([3, ELSEWHERE, 29], [])
    found = floats(ops.embed(packed, ops.upload(batch)))
    expected = floats(bfloat16(np.stack([table[3], np.zeros(16, np.float32), table[29]])))
    np.testing.assert_array_equal(found, expected)
