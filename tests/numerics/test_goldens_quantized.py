"""Rounded weights and activations: against an oracle that rounds the same way, and against the exact model.

A rounded activation is a step function: a difference in the last bit of a norm can move a code by one, and with
it the logits of the whole model far more than 1e-3. So models with rounded activations are held to 1e-3 Linear
by Linear, each given the input that it really had, and as a whole to a cosine.
"""

from __future__ import annotations

import numpy as np
import pytest

from ernie_kernels.formats import ActivationType
from numerics.backends import BACKENDS, CPU_BACKENDS, make_ops
from numerics.generation import generate, load, prompt_logits
from numerics.golden import DIRECTORIES, LOGITS_TOLERANCE, Floats, cosine, golden_rows, max_difference
from numerics.oracle import Oracle
from numerics.recording import RecordingOps

ROWS = golden_rows()
TEXTS = [row.prompt + row.greedy for row in ROWS]

backends = pytest.mark.parametrize("backend", BACKENDS)
layouts = pytest.mark.parametrize("layout", DIRECTORIES)
ROUNDED = [
    ("float32", "wint8", ActivationType.INT8),
    ("float32", "wint8", ActivationType.INT16),
    ("bfloat16", None, ActivationType.BFLOAT16),
]
rounded = pytest.mark.parametrize(("dtype", "quantization", "activation"), ROUNDED)


def last_logits(oracle: Oracle) -> Floats:
    return np.stack([oracle.logits(row.prompt)[-1] for row in ROWS])


@backends
@layouts
@pytest.mark.parametrize("chunk", [None, 7])
def test_wint8_with_float32_activations(backend: str, layout: str, chunk: int | None) -> None:
    ops = make_ops(backend)
    model = load(DIRECTORIES[layout], ops, quantization="wint8")
    oracle = Oracle.read(DIRECTORIES["hf"], is_quantized=True)
    for text in TEXTS:
        found = prompt_logits(model, ops, text, chunk)
        assert max_difference(found, oracle.logits(text)) <= LOGITS_TOLERANCE


@backends
@layouts
def test_bfloat16(backend: str, layout: str) -> None:
    ops = make_ops(backend)
    model = load(DIRECTORIES[layout], ops, dtype="bfloat16")
    assert model.cache_dtype == "bfloat16"
    _, logits = generate(model, ops, [row.prompt for row in ROWS], num_tokens=1)
    expected = np.stack([row.logits for row in ROWS])
    assert cosine(logits, expected) > 0.99
    assert max_difference(logits, expected) > LOGITS_TOLERANCE, "nothing was rounded"


@backends
@rounded
def test_rounded_activations_stay_close(
    backend: str, dtype: str, quantization: str | None, activation: ActivationType
) -> None:
    ops = make_ops(backend)
    model = load(DIRECTORIES["hf"], ops, dtype, quantization, activation)
    _, logits = generate(model, ops, [row.prompt for row in ROWS], num_tokens=1, cache_dtype="float32")
    expected = last_logits(Oracle.read(DIRECTORIES["hf"], is_quantized=quantization is not None))
    assert cosine(logits, expected) >= 0.999
    assert max_difference(logits, expected) > LOGITS_TOLERANCE, "nothing was rounded"


@backends
@rounded
def test_every_linear_rounds_its_input_as_the_oracle_does(
    backend: str, dtype: str, quantization: str | None, activation: ActivationType
) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(DIRECTORIES["hf"], ops, dtype, quantization, activation)
    logits = prompt_logits(model, ops, TEXTS[2])
    is_quantized = quantization is not None
    oracle = Oracle.read(DIRECTORIES["hf"], is_quantized=is_quantized, activation=activation.value)
    for layer in range(model.config.num_layers):
        (x, qkv), (attended, output), (hidden, mlp) = ops.products[3 * layer : 3 * layer + 3]
        name = f"model.layers.{layer}."
        parts = [oracle.multiply(x, f"{name}self_attn.{part}_proj.weight") for part in "qkv"]
        assert max_difference(qkv, np.concatenate(parts, axis=1)) <= LOGITS_TOLERANCE
        expected = oracle.multiply(attended, name + "self_attn.o_proj.weight")
        assert max_difference(output, expected) <= LOGITS_TOLERANCE
        # The MLP rounds once more inside, where the last bit may already differ: then one code moves by one.
        differences = np.abs(mlp - oracle.mlp(name + "mlp.", hidden)).max(axis=1)
        assert np.quantile(differences, 0.9) <= LOGITS_TOLERANCE
        assert differences.max() <= 0.05
    head = oracle.multiply(ops.normed[-1], "model.embed_tokens.weight")
    assert max_difference(logits, head) <= LOGITS_TOLERANCE


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "quantization", "activation"), [*ROUNDED, ("float32", "wint8", ActivationType.FLOAT32)]
)
def test_cpu_logits_do_not_depend_on_the_step(
    backend: str, dtype: str, quantization: str | None, activation: ActivationType
) -> None:
    """Alone or together, in one piece or in chunks: the same bits."""
    ops = make_ops(backend)
    model = load(DIRECTORIES["hf"], ops, dtype, quantization, activation)
    prompts = [row.prompt for row in ROWS]
    together, first_logits = generate(model, ops, prompts, num_tokens=8)
    for chunk in (1, 3, 7):
        chunked, logits = generate(model, ops, prompts, num_tokens=8, chunk=chunk)
        assert chunked == together
        np.testing.assert_array_equal(logits, first_logits)
    for prompt, tokens, row in zip(prompts, together, first_logits, strict=True):
        alone, logits = generate(model, ops, [prompt], num_tokens=8)
        assert alone == [tokens]
        np.testing.assert_array_equal(logits[0], row)
