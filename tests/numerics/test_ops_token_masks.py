"""Token masks applied in C++, on every instruction set, and by the golden model, against single bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_kernels.cpu import CpuOps, instruction_sets
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import TokenSampler

OPS: dict[str, TokenSampler] = {name: CpuOps(2, name) for name in instruction_sets(include_lowered=True)}
OPS["reference"] = ReferenceOps()

Logits = NDArray[np.float32]


def _expected(logits: Logits, masks: NDArray[np.uint32], rows: list[int]) -> Logits:
    """Each bit by itself, in Python's integers."""
    expected = logits.copy()
    for words, row in zip(masks.tolist(), rows, strict=True):
        bits = sum(word << 32 * place for place, word in enumerate(words))
        for token in range(logits.shape[1]):
            if not bits >> token & 1:
                expected[row, token] = -np.inf
    return expected


def _words(data: st.DataObject, shape: tuple[int, int]) -> NDArray[np.uint32]:
    """Masks as grammars make them: many words allow everything or nothing."""
    word = st.sampled_from([0, 0xFFFFFFFF, 1, 0x80000000]) | st.integers(0, 0xFFFFFFFF)
    count = shape[0] * shape[1]
    return np.array(data.draw(st.lists(word, min_size=count, max_size=count)), np.uint32).reshape(shape)


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_excluded_logits_become_minus_infinity_and_nothing_else_changes(name: str, data: st.DataObject) -> None:
    width, num_rows = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 6))
    num_words = data.draw(st.integers(0, -(-width // 32)))  # fewer than the columns have: a padded vocabulary
    rows = sorted(data.draw(st.sets(st.integers(0, num_rows - 1))))
    masks = _words(data, (len(rows), num_words))
    logits = np.random.default_rng(width).normal(0, 9, (num_rows, width)).astype(np.float32)
    for place in data.draw(st.lists(st.integers(0, num_rows * width - 1), max_size=5)):
        logits.flat[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    expected = _expected(logits, masks, rows)
    OPS[name].apply_token_masks(logits, masks, np.array(rows, np.int64))
    np.testing.assert_array_equal(logits.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", OPS)
def test_a_whole_vocabulary_is_cut_over_threads(name: str) -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 3, (9, 103424 + 7)).astype(np.float32)
    masks = generator.integers(0, 1 << 32, (5, 103424 // 32), dtype=np.uint32)
    rows = np.array([0, 2, 3, 7, 8])
    is_allowed = np.zeros(logits.shape, bool)
    is_allowed[[1, 4, 5, 6]] = True
    is_allowed[rows, :103424] = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")
    expected = np.where(is_allowed, logits, -np.inf)
    OPS[name].apply_token_masks(logits, masks, rows)
    np.testing.assert_array_equal(logits, expected)


def test_masks_must_fit_the_logits() -> None:
    ops, logits = CpuOps(1), np.zeros((3, 40), np.float32)
    masks, rows = np.zeros((2, 2), np.uint32), np.array([0, 2])
    for wrong, message in (
        ([0, 3], "rows has 3"),
        ([-1, 2], "rows has -1"),
        ([1, 1], "must rise"),
        ([2], "each mask"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.apply_token_masks(logits, masks, np.array(wrong))
    with pytest.raises(ValueError, match="mask words has 3, expected 0 to 2"):
        ops.apply_token_masks(logits, np.zeros((2, 3), np.uint32), rows)
    with pytest.raises(ValueError, match="logits must be a C-contiguous array that can be written"):
        ops.apply_token_masks(logits[:, :39], masks, rows)
    with pytest.raises(ValueError, match="masks has 2 dimensions and items"):
        ops.apply_token_masks(logits, np.zeros((2, 2), np.int32), rows)
    assert not logits.any(), "nothing is written before everything is checked"
