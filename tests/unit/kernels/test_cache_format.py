"""What a KV cache keeps of a head vector: the definition, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ernie_kernels.api import CACHE_DTYPES, CacheSpec
from ernie_kernels.cache_format import as_stored, check_cache_dtype, quantize_heads

HEADS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9),
    elements=st.floats(-(2.0**99), 2.0**99, width=32),
)


def test_codes_and_scales_of_an_example() -> None:
    codes, scales = quantize_heads(np.array([[254.0, -1.0, 3.0, -5.0], [0, 0, 0, 0]], np.float32))
    np.testing.assert_array_equal(codes, [[127, 0, 2, -2], [0, 0, 0, 0]])  # -0.5, 1.5, -2.5 to even
    np.testing.assert_array_equal(scales, [[2], [0]])


@given(HEADS)
def test_int8_is_off_by_half_a_step_at_most_and_row_by_row(x: NDArray[np.float32]) -> None:
    codes, scales = quantize_heads(x)
    assert np.abs(codes.astype(np.int32)).max() <= 127
    error = np.abs(x - as_stored(x, "int8"))
    # Below 2**-126 a scale has fewer bits; there the step is that of float32 itself.
    assert (error <= scales * np.float32(0.501) + np.float32(2.0**-140)).all()
    np.testing.assert_array_equal(as_stored(x[:1, :1], "int8"), as_stored(x, "int8")[:1, :1])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_read_as_nan(number: float) -> None:
    x = np.array([[1.0, number], [1.0, 2.0]], np.float32)
    stored = as_stored(x, "int8")
    assert np.isnan(stored[0]).all()
    assert np.isfinite(stored[1]).all()


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 4096), ("bfloat16", 2048), ("int8", 1056)])
def test_bytes_of_a_block_count_the_scales(dtype: str, expected: int) -> None:
    assert CacheSpec(9, 2, 2, 128, dtype).bytes_per_block == expected


def test_unknown_types_are_refused() -> None:
    for dtype in CACHE_DTYPES:
        check_cache_dtype(dtype)
    with pytest.raises(ValueError, match="cache dtype 'int4' must be float32, bfloat16 or int8"):
        check_cache_dtype("int4")
