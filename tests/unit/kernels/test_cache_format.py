"""What a KV cache keeps of a head vector: the definition, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ernie_kernels.api import CACHE_DTYPES, CacheScales, CacheSpec
from ernie_kernels.cache_format import check_cache_spec, quantize_channels, quantize_heads, through_cache

HEADS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9),
    elements=st.floats(-(2.0**99), 2.0**99, width=32),
)


def test_codes_and_scales_of_an_example() -> None:
    codes, scales = quantize_heads(np.array([[254.0, -1.0, 3.0, -5.0], [0, 0, 0, 0]], np.float32))
    np.testing.assert_array_equal(codes, [[127, 0, 2, -2], [0, 0, 0, 0]])  # -0.5, 1.5, -2.5 to even
    np.testing.assert_array_equal(scales, [[2], [0]])


@settings(deadline=None)
@given(HEADS)
def test_int8_is_off_by_half_a_step_at_most_and_row_by_row(x: NDArray[np.float32]) -> None:
    codes, scales = quantize_heads(x)
    assert np.abs(codes.astype(np.int32)).max() <= 127
    error = np.abs(x - through_cache(x, "int8"))
    # Below 2**-126 a scale has fewer bits; there the step is that of float32 itself.
    assert (error <= scales * np.float32(0.501) + np.float32(2.0**-140)).all()
    np.testing.assert_array_equal(through_cache(x[:1, :1], "int8"), through_cache(x, "int8")[:1, :1])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_read_as_nan(number: float) -> None:
    x = np.array([[1.0, number], [1.0, 2.0]], np.float32)
    stored = through_cache(x, "int8")
    assert np.isnan(stored[0]).all()
    assert np.isfinite(stored[1]).all()


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 4096), ("bfloat16", 2048), ("int8", 1056)])
def test_bytes_of_a_block_count_the_scales(dtype: str, expected: int) -> None:
    assert CacheSpec(9, 2, 2, 128, dtype).bytes_per_block == expected


def test_static_scales_take_no_bytes_of_a_block() -> None:
    scales = CacheScales(*np.ones((2, 2, 128), np.float32))
    assert CacheSpec(9, 2, 2, 128, "int8", scales).bytes_per_block == 1024


def test_codes_with_static_scales() -> None:
    scales = np.array([[2, 0, 1], [1, 0.5, 1e30]], np.float32)
    x = np.array([[[253, 1, np.nan], [-0.5, -64, np.inf]], [[-3, np.nan, -np.inf], [1.5, 63.5, 1]]], np.float32)
    codes = quantize_channels(x, scales)
    np.testing.assert_array_equal(codes, [[[126, 0, 0], [0, -127, 127]], [[-2, 0, -127], [2, 127, 0]]])
    np.testing.assert_array_equal(through_cache(x, "int8", scales), codes.astype(np.float32) * scales)


@settings(deadline=None)
@given(HEADS, st.sampled_from([2.0**-9, 0.1, 1.0, 77.7]))
def test_static_scales_are_off_by_half_a_step_or_cut(x: NDArray[np.float32], step: float) -> None:
    scales = np.full(x.shape[-2:], step, np.float32)
    cut = x.clip(-127 * scales, 127 * scales)
    assert (np.abs(through_cache(x, "int8", scales) - cut) <= scales * np.float32(0.501)).all()


def test_unknown_types_are_refused() -> None:
    for dtype in CACHE_DTYPES:
        check_cache_spec(CacheSpec(1, 2, 2, 4, dtype))
    with pytest.raises(ValueError, match="cache dtype 'int4'"):
        check_cache_spec(CacheSpec(1, 2, 2, 4, "int4"))


@pytest.mark.parametrize(
    ("dtype", "values", "complaint"),
    [
        ("bfloat16", np.ones((2, 4), np.float32), "bfloat16"),
        (
            "int8",
            np.ones((4, 2), np.float32),
            r"values are float32 \(4, 2\), expected float32 \(2, 4\)",
        ),
        ("int8", np.ones((2, 4)), "float64"),
        ("int8", np.full((2, 4), np.nan, np.float32), "finite"),
        ("int8", np.full((2, 4), -1, np.float32), "finite"),
    ],
)
def test_static_scales_that_do_not_fit_are_refused(
    dtype: str, values: NDArray[np.float32], complaint: str
) -> None:
    scales = CacheScales(np.ones((2, 4), np.float32), values)
    with pytest.raises(ValueError, match=complaint):
        check_cache_spec(CacheSpec(1, 2, 2, 4, dtype, scales))
