"""The W4A8C8 twin of moe_tp, made by our converter and cut for four ranks, read back by one.

Rounded inputs and caches are step functions: a number that differs in its last bit may move by one code. So
every op is held to an oracle over the same integers, each given the input that it really had, and the whole
model to a cosine with that oracle's logits.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.models.base import Model
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
from ernie_kernels.api import Ops
from ernie_kernels.formats import W4A8Weight
from numerics.backends import BACKENDS, CPU_BACKENDS, make_ops, rounds_attention
from numerics.generation import assert_steps_change_no_bit, generate, load, prompt_logits
from numerics.golden import (
    LOGITS_TOLERANCE,
    Floats,
    assert_rounded_rows_agree,
    assert_rows_agree,
    checkpoint,
    cosine,
    golden_rows,
    max_difference,
)
from numerics.measuring_oracle import BLOCK, TEXTS, measured_absmax, rotated
from numerics.oracle import Oracle, round_weights
from numerics.recording import RecordingOps

ROWS = golden_rows("moe_tp")
PROMPTS = [row.prompt for row in ROWS]

_WRITTEN = tempfile.TemporaryDirectory(prefix="ernie-w4a8c8-")

backends = pytest.mark.parametrize("backend", BACKENDS)


@cache
def twin() -> Path:
    """The converted checkpoint, calibrated with the goldens' own texts."""
    target = Path(_WRITTEN.name) / "moe_tp"
    how = QuantizationConfig("w4a8", has_cache_scales=True)
    quantize_checkpoint(QuantizationJob(checkpoint("moe_tp"), target, how, 4, TEXTS), lambda line: None)
    return target


def load_twin(ops: Ops) -> Model:
    return load(twin(), ops, quantization="w4a8")


def levels(values: Floats, scales: Floats, most: int) -> Floats:
    """The numbers that codes of these scales stand for."""
    codes: Floats = np.rint(values / np.where(scales == 0, 1, scales)).clip(-most, most)
    return np.asarray(codes * scales, np.float32)


@dataclass(frozen=True)
class W4A8C8Oracle(Oracle):
    """Dense Linears in int8, experts in int4 over int8 inputs, keys and values by static scales.

    ``scales``: of the inputs of each expert's products, and of the channels of keys and values, by name.
    """

    scales: dict[str, Floats] | None = None

    @classmethod
    def of_twin(cls) -> W4A8C8Oracle:
        plain = Oracle.read(checkpoint("moe_tp"))
        weights = round_weights(plain.weights, "wint8")
        for name, values in plain.weights.items():
            if ".mlp.experts." in name:
                folded = rotated(values) / BLOCK if "down_proj" in name else values
                weights[name] = levels(folded, np.abs(folded).max(axis=1, keepdims=True) / 7, 7)
        return cls(plain.config, weights, scales=twin_scales())

    def multiply(self, x: Floats, name: str) -> Floats:
        if ".mlp.experts." not in name:
            return super().multiply(x, name)
        assert self.scales is not None
        seen = rotated(x) if "down_proj" in name else x
        product: Floats = levels(seen, self.scales[name], 127) @ self.weights[name].T
        return product

    def cached(self, name: str, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        assert self.scales is not None
        return levels(keys, self.scales[name + "keys"], 127), levels(values, self.scales[name + "values"], 127)


@cache
def twin_scales() -> dict[str, Floats]:
    """The static scales of the twin, by the names of ``measured_absmax``."""
    config, scales = ModelConfig.from_directory(twin()), {}
    assert config.moe is not None
    with CheckpointWeights.open(twin(), config, "float32", "w4a8") as weights:
        for layer in range(config.num_layers):
            name, of_cache = f"model.layers.{layer}.", weights.cache_scales(layer)
            assert of_cache is not None
            scales[name + "self_attn.keys"], scales[name + "self_attn.values"] = of_cache.keys, of_cache.values
            for expert in range(config.moe.num_experts if config.has_experts(layer) else 0):
                for role, modules in ((Role.EXPERT_GATE_UP, ("gate", "up")), (Role.EXPERT_DOWN, ("down",))):
                    weight = weights.linear(role, layer, expert)
                    assert isinstance(weight, W4A8Weight)
                    for module in modules:
                        prefix = f"{name}mlp.experts.{expert}.{module}"
                        scales[prefix + "_proj.weight"] = np.array(weight.input_scale, np.float32)
    return scales


@cache
def oracle_logits() -> Floats:
    oracle = W4A8C8Oracle.of_twin()
    return np.stack([oracle.logits(prompt)[-1] for prompt in PROMPTS])


def test_calibration_measures_what_the_oracle_sees() -> None:
    assert twin_scales().keys() == measured_absmax().keys()
    for name, scales in twin_scales().items():
        np.testing.assert_allclose(scales * 127, measured_absmax()[name], rtol=1e-4, err_msg=name)


@backends
def test_every_op_rounds_as_the_oracle_does(backend: str) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load_twin(ops)
    prompt_logits(model, ops, TEXTS[3], cache_dtype="int8")
    oracle = W4A8C8Oracle.of_twin()
    for layer in range(model.config.num_layers):
        (hidden, qkv), (attended, output), (inputs, transformed) = ops.products[3 * layer : 3 * layer + 3]
        name = f"model.layers.{layer}."
        parts = [oracle.multiply(hidden, f"{name}self_attn.{part}_proj.weight") for part in "qkv"]
        assert max_difference(qkv, np.concatenate(parts, axis=1)) <= LOGITS_TOLERANCE
        assert max_difference(output, oracle.multiply(attended, name + "self_attn.o_proj.weight")) <= 1e-3
        expected = oracle.attend(name + "self_attn.", *np.split(qkv, [8 * 16, 12 * 16], axis=1))
        (assert_rounded_rows_agree if rounds_attention(backend) else assert_rows_agree)(output, expected)
        assert_rows_agree(transformed, oracle.transform(layer, inputs))


@backends
@pytest.mark.parametrize("chunk", [None, 7])
def test_logits_are_those_of_the_oracle(backend: str, chunk: int | None) -> None:
    """To 1e-4 where this was written; a code that moves in a first layer would cost more."""
    ops = make_ops(backend)
    _, logits = generate(load_twin(ops), ops, PROMPTS, 1, chunk, "int8")
    assert cosine(logits, oracle_logits()) >= (0.999 if rounds_attention(backend) else 0.9999)


def test_rounding_costs_what_it_must() -> None:
    """The oracle beside the float32 golden: 0.97, which four bits of a tiny random model's weights lose."""
    expected = np.stack([row.logits for row in ROWS])
    assert cosine(oracle_logits(), expected) >= 0.96
    assert max_difference(oracle_logits(), expected) > LOGITS_TOLERANCE, "nothing was rounded"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_cpu_logits_do_not_depend_on_the_step(backend: str) -> None:
    """Alone or together, in one piece or in chunks: the same bits."""
    ops = make_ops(backend)
    model = load_twin(ops)
    assert_steps_change_no_bit(model, ops, PROMPTS, cache_dtype="int8")
