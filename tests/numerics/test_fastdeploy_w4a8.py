"""A W4A8C8 checkpoint as FastDeploy would have it gives what the float model gives, within what rounding costs.

The twin of moe_tp is written by FastDeploy's formulas (``unit.backend.fastdeploy_writer``), its activations are
measured by the oracle: nothing of our formats, rotation, calibration or converter. Were an expert's inputs
rotated with the factor 1 / sqrt(128), its outputs would be 11.3 times too small.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from numerics.backends import BACKENDS, make_ops
from numerics.generation import generate, load, prompt_logits
from numerics.golden import Floats, checkpoint, cosine, golden_rows
from numerics.measuring_oracle import TEXTS, measured_absmax
from numerics.oracle import Oracle
from numerics.recording import RecordingOps
from support.checkpoints.fastdeploy_writer import Tensors, checkpoint_tensors, write_model
from support.checkpoints.safetensors_writer import read_tensors

QUANTIZATION = {
    "quantization": "mix_quant",
    "dense_quant_type": "wint8",
    "moe_quant_type": "w4a8",
    "kv_cache_quant_type": "int8",
    "is_quantized": True,
    "is_permuted": False,
    "hadamard_block_size": 128,
}
_WRITTEN = tempfile.TemporaryDirectory(prefix="ernie-fastdeploy-")
_NAMES = {
    "gate_proj.weight": "up_gate_proj.activation_scale",
    "down_proj.weight": "down_proj.activation_scale",
    "keys": "cachek_matmul.activation_scale",
    "values": "cachev_matmul.activation_scale",
}

backends = pytest.mark.parametrize("backend", BACKENDS)


def activation_scales() -> Tensors:
    """The oracle's absmax under FastDeploy's names."""
    scales: Tensors = {}
    for name, absmax in measured_absmax().items():
        for ours, theirs in _NAMES.items():
            if name.endswith("." + ours):
                renamed = name.removesuffix(ours).replace("model.", "ernie.", 1) + theirs
                scales[renamed] = np.asarray(absmax, np.float32).reshape(-1)
    return scales


@cache
def released() -> Path:
    """The checkpoint, in four parts as the released one is."""
    source = checkpoint("moe_tp")
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": QUANTIZATION}
    tensors = checkpoint_tensors(read_tensors(source / "model.safetensors"), "w4a8", activation_scales())
    return write_model(Path(_WRITTEN.name) / "w4a8c8", config, tensors, ranks=4)


def rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


@backends
def test_experts_give_what_they_give_in_float(backend: str) -> None:
    """Four bits of each matrix cost 0.2 of the length of an output, and nothing of its size."""
    ops = RecordingOps(make_ops(backend))
    model = load(released(), ops, quantization="w4a8")
    prompt_logits(model, ops, TEXTS[3], cache_dtype="int8")
    plain = Oracle.read(checkpoint("moe_tp"))
    for layer in (1, 2):
        inputs, found = ops.products[3 * layer + 2]
        expected = plain.transform(layer, inputs)
        assert 0.95 <= rms(found) / rms(expected) <= 1.05
        assert rms(found - expected) / rms(expected) <= 0.25


@backends
def test_logits_are_near_the_golden(backend: str) -> None:
    ops, rows = make_ops(backend), golden_rows("moe_tp")
    model = load(released(), ops, quantization="w4a8")
    _, logits = generate(model, ops, [row.prompt for row in rows], 1, cache_dtype="int8")
    assert cosine(logits, np.stack([row.logits for row in rows])) >= 0.96
