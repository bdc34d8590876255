"""norm and add_norm of CpuOps against ReferenceOps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.devices.host import resident_bytes
from ernie_kernels.cpu import CpuOps
from ernie_kernels.reference import ReferenceOps
from numerics.ops_cases import ISAS, bits, cpu_ops, random_floats

REFERENCE = ReferenceOps()


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 7),
    width=st.integers(1, 200),
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6, 1e15]),
    seed=st.integers(0, 1000),
)
def test_norm_equals_the_reference(isa: str, rows: int, width: int, scale: float, seed: int) -> None:
    x = random_floats(seed, rows, width, scale=scale)
    delta = random_floats(seed + 1, rows, width, scale=scale)
    weight = random_floats(seed + 2, width)
    ops = cpu_ops(isa)
    np.testing.assert_allclose(
        ops.norm(x, ops.pack_vector(weight), 1e-5), REFERENCE.norm(x, weight, 1e-5), rtol=3e-6, atol=1e-30
    )
    residual, normed = ops.add_norm(x, delta, ops.pack_vector(weight), 1e-5)
    np.testing.assert_array_equal(bits(residual), bits(x + delta))
    np.testing.assert_array_equal(bits(normed), bits(ops.norm(x + delta, weight, 1e-5)))


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_is_the_same_bits_in_any_batch_and_thread_count(isa: str) -> None:
    x, weight = random_floats(1, 13, 77), random_floats(2, 77)
    whole = cpu_ops(isa).norm(x, weight, 1e-5)
    for row in range(13):
        alone = cpu_ops(isa, 1 + row % 3).norm(x[row : row + 1], weight, 1e-5)
        np.testing.assert_array_equal(bits(alone), bits(whole[row : row + 1]))


def test_a_large_result_is_written_again_only_when_nobody_holds_a_view_of_it() -> None:
    ops = CpuOps(2)
    x, weight = random_floats(1, 512, 1024), np.ones(1024, np.float32)
    expected = REFERENCE.norm(x, weight, 1e-5)
    first = ops.norm(x, weight, 1e-5)
    held, place = first[100:], first.ctypes.data
    del first
    assert ops.norm(-x, weight, 1e-5).ctypes.data != place
    np.testing.assert_allclose(held, expected[100:], rtol=3e-6)
    del held
    assert place in {result.ctypes.data for result in [ops.norm(x, weight, 1e-5) for _ in range(2)]}
    last = ops.norm(x, weight, 1e-5)
    del ops
    np.testing.assert_allclose(last, expected, rtol=3e-6)


def test_results_of_other_sizes_are_written_where_larger_ones_were() -> None:
    ops = CpuOps(2)
    x, weight = np.ones((8192, 1024), np.float32), np.ones(1024, np.float32)
    ops.norm(x, weight, 1e-5)
    before = resident_bytes()
    for rows in (4096, 2048, 1024, 8192):
        ops.norm(x[:rows], weight, 1e-5)
    assert resident_bytes() - before < 8 << 20
