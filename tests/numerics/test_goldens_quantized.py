"""Rounded weights and activations: against an oracle that rounds the same way, and against the exact model.

A rounded activation is a step function: a difference in the last bit of a norm can move a code by one, and with
it the logits of the whole model far more than 1e-3. So models with rounded activations are held to 1e-3 Linear
by Linear, each given the input that it really had, and as a whole to a cosine.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ernie_kernels.formats import ActivationType
from numerics.backends import BACKENDS, CPU_BACKENDS, INTEGER_BACKENDS, make_ops
from numerics.generation import assert_steps_change_no_bit, generate, load, prompt_logits
from numerics.golden import (
    FAMILIES,
    LAYOUTS,
    LOGITS_TOLERANCE,
    MOE_FAMILIES,
    Floats,
    assert_rows_agree,
    checkpoint,
    cosine,
    golden_rows,
    max_difference,
)
from numerics.oracle import Oracle
from numerics.recording import RecordingOps

QUANTIZED = [("dense", "wint8"), *((family, name) for family in MOE_FAMILIES for name in ("wint8", "wint4"))]

backends = pytest.mark.parametrize("backend", BACKENDS)
quantized = pytest.mark.parametrize(("family", "quantization"), QUANTIZED)
rounded = pytest.mark.parametrize("activation", [ActivationType.INT8, ActivationType.INT16])
BFLOAT16 = ("dense", None, ActivationType.BFLOAT16)
BFLOAT16_EXPERTS = ("moe", None, ActivationType.BFLOAT16)
ROUNDED = [
    (family, quantization, activation)
    for family, quantization in QUANTIZED
    for activation in (ActivationType.INT8, ActivationType.INT16)
]


@cache
def oracle_of(family: str, quantization: str | None, activation: str | None = None) -> Oracle:
    return Oracle.read(checkpoint(family), quantization, activation)


def dtype_of(quantization: str | None) -> str:
    """Weights that are not quantized are bfloat16, as activations in bfloat16 want them."""
    return "float32" if quantization else "bfloat16"


def texts(family: str) -> list[list[int]]:
    """The prompts of a family, each with its greedy tokens."""
    return [row.prompt + row.greedy for row in golden_rows(family)]


def last_logits(oracle: Oracle, family: str) -> Floats:
    return np.stack([oracle.logits(row.prompt)[-1] for row in golden_rows(family)])


@backends
@quantized
@pytest.mark.parametrize("chunk", [None, 7])
def test_float32_activations(backend: str, family: str, quantization: str, chunk: int | None) -> None:
    ops = make_ops(backend)
    model = load(checkpoint(family), ops, quantization=quantization)
    for index, text in enumerate(texts(family)):
        found = prompt_logits(model, ops, text, chunk)
        assert max_difference(found, expected_logits(family, quantization, index)) <= LOGITS_TOLERANCE


@cache
def expected_logits(family: str, quantization: str, row: int) -> Floats:
    return oracle_of(family, quantization).logits(texts(family)[row])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", ["wint8", "wint4"])
def test_the_paddle_layout_is_quantized_alike(family: str, quantization: str) -> None:
    ops = make_ops(CPU_BACKENDS[-1])
    prompts = [row.prompt for row in golden_rows(family)]
    models = [load(checkpoint(family, layout), ops, quantization=quantization) for layout in LAYOUTS]
    found, expected = (generate(model, ops, prompts, 1)[1] for model in models)
    np.testing.assert_array_equal(found, expected)


@backends
@pytest.mark.parametrize("family", ["dense", "moe_tp"])
def test_bfloat16(backend: str, family: str) -> None:
    ops, rows = make_ops(backend), golden_rows(family)
    model = load(checkpoint(family), ops, dtype="bfloat16")
    assert model.cache_dtype == "bfloat16"
    _, logits = generate(model, ops, [row.prompt for row in rows], num_tokens=1)
    expected = np.stack([row.logits for row in rows])
    assert cosine(logits, expected) > 0.99
    assert max_difference(logits, expected) > LOGITS_TOLERANCE, "nothing was rounded"


@pytest.mark.parametrize("backend", INTEGER_BACKENDS)
@pytest.mark.parametrize(
    ("family", "quantization", "activation"), [BFLOAT16, *(case for case in ROUNDED if case[0] == "dense")]
)
def test_rounded_activations_stay_close(
    backend: str, family: str, quantization: str | None, activation: ActivationType
) -> None:
    ops, rows = make_ops(backend), golden_rows(family)
    model = load(checkpoint(family), ops, dtype_of(quantization), quantization, activation)
    _, logits = generate(model, ops, [row.prompt for row in rows], num_tokens=1, cache_dtype="float32")
    expected = last_logits(oracle_of(family, quantization), family)
    assert cosine(logits, expected) >= 0.999
    assert max_difference(logits, expected) > LOGITS_TOLERANCE, "nothing was rounded"


@pytest.mark.parametrize("backend", INTEGER_BACKENDS)
@pytest.mark.parametrize(("family", "quantization", "activation"), [BFLOAT16, BFLOAT16_EXPERTS, *ROUNDED])
def test_every_linear_rounds_its_input_as_the_oracle_does(
    backend: str, family: str, quantization: str | None, activation: ActivationType
) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(checkpoint(family), ops, dtype_of(quantization), quantization, activation)
    logits = prompt_logits(model, ops, texts(family)[2])
    oracle = oracle_of(family, quantization, activation.value)
    for layer in range(model.config.num_layers):
        (x, qkv), (attended, output), (hidden, transformed) = ops.products[3 * layer : 3 * layer + 3]
        name = f"model.layers.{layer}.self_attn."
        parts = [oracle.multiply(x, f"{name}{part}_proj.weight") for part in "qkv"]
        assert max_difference(qkv, np.concatenate(parts, axis=1)) <= LOGITS_TOLERANCE
        expected = oracle.multiply(attended, name + "o_proj.weight")
        assert max_difference(output, expected) <= LOGITS_TOLERANCE
        assert_rows_agree(transformed, oracle.transform(layer, hidden))
    assert max_difference(logits, oracle.head(ops.normed[-1])) <= LOGITS_TOLERANCE


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    ("family", "quantization", "activation"),
    [
        BFLOAT16,
        BFLOAT16_EXPERTS,
        *(
            (family, quantization, activation)
            for family, quantization in (("dense", "wint8"), ("moe", "wint4"), ("moe300b", "wint8"))
            for activation in (ActivationType.FLOAT32, ActivationType.INT8, ActivationType.INT16)
        ),
    ],
)
def test_cpu_logits_do_not_depend_on_the_step(
    backend: str, family: str, quantization: str | None, activation: ActivationType
) -> None:
    """Alone or together, in one piece or in chunks: the same bits."""
    ops = make_ops(backend)
    model = load(checkpoint(family), ops, dtype_of(quantization), quantization, activation)
    prompts = [row.prompt for row in golden_rows(family)]
    assert_steps_change_no_bit(model, ops, prompts)
