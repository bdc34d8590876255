"""The block Hadamard rotation: the definition, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_kernels.hadamard import fold_rotation, rotate_blocks

BLOCKS = st.sampled_from([2, 4, 16, 128, 1024])


def sylvester(size: int) -> NDArray[np.float64]:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@settings(deadline=None)
@given(BLOCKS, st.integers(0, 4), st.integers(1, 3), st.integers(0, 999))
def test_each_block_is_the_product_with_the_matrix(block: int, rows: int, blocks: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, blocks * block)).astype(np.float32)
    expected = x.reshape(-1, block).astype(np.float64) @ sylvester(block)
    np.testing.assert_allclose(rotate_blocks(x, block).reshape(-1, block), expected, atol=1e-6 * block)


def test_a_worked_example() -> None:
    """Sums and differences only, as FastDeploy's kernels make them: no factor."""
    x = np.array([[1, 2, 3, 4]], np.float32)
    np.testing.assert_array_equal(rotate_blocks(x, 4), [[10, -2, -4, 0]])
    np.testing.assert_array_equal(rotate_blocks(x, 2), [[3, -1, 7, -1]])
    np.testing.assert_array_equal(fold_rotation(x, 4), [[2.5, -0.5, -1, 0]])


@settings(deadline=None)
@given(BLOCKS, st.integers(0, 999))
def test_folded_weights_undo_the_rotation(block: int, seed: int) -> None:
    x, w = np.random.default_rng(seed).standard_normal((2, 3, 2 * block)).astype(np.float32)
    rotated = rotate_blocks(x, block)
    np.testing.assert_allclose(fold_rotation(rotated, block), x, atol=1e-5)
    np.testing.assert_allclose(rotated @ fold_rotation(w, block).T, x @ w.T, atol=1e-3)


def test_an_outlier_is_spread_over_its_block() -> None:
    x = np.zeros((1, 256), np.float32)
    x[0, 5] = 128
    rotated = np.abs(rotate_blocks(x, 128))
    np.testing.assert_array_equal(rotated[0, :128], 128)
    np.testing.assert_array_equal(rotated[0, 128:], 0)


@pytest.mark.parametrize("block", [0, 1, 3, 2048, -4])
def test_blocks_are_powers_of_two(block: int) -> None:
    with pytest.raises(ValueError, match=f"{block} .*power of two"):
        rotate_blocks(np.zeros((1, 12288), np.float32), block)


def test_blocks_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"128 .*192"):
        rotate_blocks(np.zeros((1, 192), np.float32), 128)
