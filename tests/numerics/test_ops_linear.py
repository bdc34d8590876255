"""linear, lm_head, embed and mlp of CpuOps against ReferenceOps, and row for row bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_kernels.api import ELSEWHERE
from ernie_kernels.formats import (
    ACTIVATION_LEVELS,
    ActivationType,
    Int4Weight,
    Int8Weight,
    pack_int4,
    quantize_activations,
)
from ernie_kernels.reference import ReferenceOps
from numerics.ops_cases import (
    ISAS,
    QUANTIZED_ACTIVATIONS,
    WEIGHT_TYPES,
    Floats,
    bits,
    cpu_ops,
    make_weight,
    plain_batch,
    random_floats,
    with_fields,
)

REFERENCE = ReferenceOps()
SIZES = st.one_of(
    st.sampled_from([1, 2, 3, 4, 15, 16, 17, 31, 64, 65, 127, 128, 129, 256]), st.integers(1, 300)
)


def assert_close(got: Floats, expected: Floats, magnitude: float) -> None:
    """Compare at float32 accuracy of sums whose terms add up to about ``magnitude``."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6 * magnitude + 1e-30)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "activation"), WEIGHT_TYPES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 9),
    inputs=SIZES,
    outputs=SIZES,
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_linear_equals_the_reference(
    isa: str,
    name: str,
    activation: ActivationType,
    rows: int,
    inputs: int,
    outputs: int,
    scale: float,
    seed: int,
) -> None:
    x = random_floats(seed, rows, inputs, scale=scale)
    x[::3] = 0
    weight = make_weight(random_floats(seed + 1, outputs, inputs), name)
    ops = cpu_ops(isa)
    got = ops.linear(x, ops.pack_linear(weight, activation))
    expected = REFERENCE.linear(x, REFERENCE.pack_linear(weight, activation))
    assert_close(got, expected, 4 * scale * inputs**0.5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "activation"), WEIGHT_TYPES)
def test_a_row_is_the_same_bits_in_any_batch_and_thread_count(
    isa: str, name: str, activation: ActivationType
) -> None:
    x = random_floats(1, 23, 333)
    weight = make_weight(random_floats(2, 211, 333), name)
    ops = cpu_ops(isa)
    packed = ops.pack_linear(weight, activation)
    whole = ops.linear(x, packed)
    for count in (1, 2, 3, 4, 5, 7):
        for start in (0, 1, 11, 23 - count):
            part = ops.linear(np.ascontiguousarray(x[start : start + count]), packed)
            np.testing.assert_array_equal(bits(part), bits(whole[start : start + count]))
    for threads in (1, 3, 5):
        other = cpu_ops(isa, threads)
        np.testing.assert_array_equal(bits(other.linear(x, other.pack_linear(weight, activation))), bits(whole))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", [ActivationType.INT8, ActivationType.INT16])
def test_integer_products_are_exact_at_the_extremes(isa: str, activation: ActivationType) -> None:
    """All codes at +-127: pairs of products must not saturate; powers of two make the answer exact."""
    signs = np.sign(random_floats(3, 5, 260)) + (random_floats(3, 5, 260) == 0)
    weight = Int8Weight((127 * signs).astype(np.int8), np.full(5, 0.5, np.float32))
    x = (signs * (127 if activation is ActivationType.INT8 else 127 * 128)).astype(np.float32)
    ops = cpu_ops(isa)
    got = ops.linear(x, ops.pack_linear(weight, activation))
    expected = (x.astype(np.float64) @ weight.codes.T.astype(np.float64) * 0.5).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "activation"), WEIGHT_TYPES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 8, 127, 128, 259])
def test_what_is_no_number_stays_none(
    isa: str, name: str, activation: ActivationType, wrong: float, place: int
) -> None:
    """A NaN must not become plausible logits; the rows beside it are as ever."""
    x = random_floats(13, 3, 260)
    ops = cpu_ops(isa)
    packed = ops.pack_linear(make_weight(random_floats(14, 5, 260), name), activation)
    clean = ops.linear(x, packed)
    x[1, place] = wrong
    got = ops.linear(x, packed)
    assert not np.isfinite(got[1]).any()
    np.testing.assert_array_equal(bits(got[[0, 2]]), bits(clean[[0, 2]]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", QUANTIZED_ACTIVATIONS)
@pytest.mark.parametrize("inputs", [1, 2, 7, 8, 9, 130])
def test_every_int4_code_is_multiplied_exactly(isa: str, activation: ActivationType, inputs: int) -> None:
    codes = np.random.default_rng(inputs).integers(-8, 8, (37, inputs)).astype(np.int8)
    weight = Int4Weight(pack_int4(codes), np.full(37, 2.0, np.float32), inputs)
    x = np.full((7, inputs), 127.0, np.float32)
    x[:, ::2] = -127.0
    ops = cpu_ops(isa)
    got = ops.linear(x, ops.pack_linear(weight, activation))
    np.testing.assert_array_equal(got, 2 * (x @ codes.T.astype(np.float32)))


@pytest.mark.parametrize("isa", ISAS)
def test_many_rows_and_panels_are_the_rows_alone(isa: str) -> None:
    """More activations than a row block holds, more weights than a chunk: each row is as if it were alone."""
    x = random_floats(11, 70, 2600)
    ops = cpu_ops(isa)
    for name, activation in WEIGHT_TYPES:
        packed = ops.pack_linear(make_weight(random_floats(12, 200, 2600), name), activation)
        whole = ops.linear(x, packed)
        for row in range(len(x)):  # tiles have 2 to 32 rows, by type and instruction set
            np.testing.assert_array_equal(bits(ops.linear(x[row : row + 1], packed)[0]), bits(whole[row]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "activation"), WEIGHT_TYPES)
def test_embed_returns_the_rows_of_the_table_exactly(isa: str, name: str, activation: ActivationType) -> None:
    ids = np.array([70, 0, 33, ELSEWHERE, 33, 1, 69], np.int32)
    batch = with_fields(plain_batch(len(ids)), token_ids=ids)
    weight = make_weight(random_floats(4, 71, 37), name)
    ops = cpu_ops(isa)
    got = ops.embed(ops.pack_linear(weight, activation), ops.upload(batch))
    expected = REFERENCE.embed(REFERENCE.pack_linear(weight, activation), REFERENCE.upload(batch))
    np.testing.assert_array_equal(bits(got), bits(expected))


@pytest.mark.parametrize("isa", ISAS)
def test_lm_head_computes_the_wanted_rows_only(isa: str) -> None:
    rows = np.array([4, 0, 4], np.int32)
    batch = with_fields(plain_batch(5), logit_rows=rows)
    weight = make_weight(random_floats(5, 130, 48), "float32")
    hidden = random_floats(6, 5, 48)
    ops = cpu_ops(isa)
    packed = ops.pack_linear(weight, ActivationType.FLOAT32)
    got = ops.lm_head(hidden, packed, ops.upload(batch)).logits
    np.testing.assert_array_equal(bits(got), bits(ops.linear(hidden, packed)[rows]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "activation"), WEIGHT_TYPES)
@pytest.mark.parametrize(("hidden", "inner"), [(1, 1), (24, 7), (96, 130)])
def test_mlp_equals_the_reference(
    isa: str, name: str, activation: ActivationType, hidden: int, inner: int
) -> None:
    x = random_floats(7, 6, hidden)
    gate_up = make_weight(random_floats(8, 2 * inner, hidden), name)
    down = make_weight(random_floats(9, hidden, inner), name)
    ops = cpu_ops(isa)
    got = ops.mlp(x, ops.pack_linear(gate_up, activation), ops.pack_linear(down, activation))
    pack = REFERENCE.pack_linear
    expected = REFERENCE.mlp(x, pack(gate_up, activation), pack(down, activation))
    # the second quantization may round a borderline code the other way: one step of its scale
    step = {"float32": 1e-5, "bfloat16": 4e-3, "int16": 1e-3, "int8": 2e-1}[activation.value]
    np.testing.assert_allclose(got, expected, rtol=0, atol=step * np.abs(expected).max() + 1e-5)
    alone = ops.mlp(x[2:3], ops.pack_linear(gate_up, activation), ops.pack_linear(down, activation))
    np.testing.assert_array_equal(bits(alone), bits(got[2:3]))


@pytest.mark.parametrize("isa", ISAS)
def test_silu_of_huge_gates(isa: str) -> None:
    """silu(-1000) is 0, silu(1000) is 1000: no overflow on the way."""
    gate_up = make_weight(np.array([[1.0], [1.0]], np.float32), "float32")
    down = make_weight(np.ones((1, 1), np.float32), "float32")
    ops = cpu_ops(isa)
    pack = ops.pack_linear
    x = np.array([[-1000.0], [1000.0], [0.0], [-80.0]], np.float32)
    got = ops.mlp(x, pack(gate_up, ActivationType.FLOAT32), pack(down, ActivationType.FLOAT32))
    np.testing.assert_allclose(got[:, 0], [0, 1e6, 0, 0], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", [ActivationType.INT16, ActivationType.INT8])
def test_inputs_beside_the_middle_of_two_codes_get_the_codes_of_a_division(
    isa: str, activation: ActivationType
) -> None:
    width, levels, generator = 32, ACTIVATION_LEVELS[activation.value], np.random.default_rng(5)
    scales = generator.uniform(1, 2, (4096, 1)) * 2.0 ** generator.integers(-130, 90, (4096, 1))
    middles = (generator.integers(-levels, levels, (4096, width)) + 0.5) * scales
    x = middles.astype(np.float32)
    x = np.nextafter(x, x * generator.choice([0.5, 1, 2], x.shape).astype(np.float32))
    x[:, :1] = scales * levels
    expected = quantize_activations(x, activation)
    identity = Int8Weight(np.eye(width, dtype=np.int8), np.ones(width, np.float32))
    ops = cpu_ops(isa)
    got = ops.linear(x, ops.pack_linear(identity, activation))
    np.testing.assert_array_equal(got, expected.codes.astype(np.float32) * expected.scales)
