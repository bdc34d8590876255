"""What the converter writes is FastDeploy's layout, byte for byte, as its formulas alone make it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.quantization import quantizer
from ernie_backend.quantization.calibration import Calibration
from ernie_backend.weights.checkpoints.files import INDEX
from support.checkpoints.fastdeploy_writer import Tensors, checkpoint_tensors, cut
from support.checkpoints.quantized_checkpoints import make
from support.checkpoints.safetensors_writer import read_tensors
from support.paths import DATA

SOURCE = read_tensors(DATA / "moe_tp" / "model.safetensors")
LAYERS, EXPERTS, CHANNELS = 3, 4, 64
MEASURED = {
    name: 1 + np.random.default_rng(seed).random((LAYERS, width), np.float32)
    for seed, (name, width) in enumerate(
        [("gate_up", EXPERTS), ("down", EXPERTS), ("keys", CHANNELS), ("values", CHANNELS)]
    )
}


def expected(quantization: str) -> Tensors:
    scales: Tensors = {}
    for layer in range(LAYERS if quantization == "w4a8" else 0):
        for name in ("keys", "values"):
            tensor = f"ernie.layers.{layer}.self_attn.cache{name[0]}_matmul.activation_scale"
            scales[tensor] = MEASURED[name][layer]
        for expert in range(EXPERTS if layer else 0):
            for kind, name in (("up_gate", "gate_up"), ("down", "down")):
                tensor = f"ernie.layers.{layer}.mlp.experts.{expert}.{kind}_proj.activation_scale"
                scales[tensor] = MEASURED[name][layer, expert : expert + 1]
    return checkpoint_tensors(SOURCE, quantization, scales)


def written(directory: Path) -> Tensors:
    files = set(json.loads((directory / INDEX).read_text())["weight_map"].values())
    return {name: values for file in files for name, values in read_tensors(directory / file).items()}


@pytest.mark.parametrize("quantization", ["wint8", "wint4", "w4a8"])
@pytest.mark.parametrize("ranks", [1, 4])
def test_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, ranks: int) -> None:
    monkeypatch.setattr(quantizer, "calibrate", lambda *_: Calibration(**MEASURED))
    is_w4a8 = quantization == "w4a8"
    target = make("moe_tp", tmp_path / "q", quantization, has_cache_scales=is_w4a8, ranks=ranks)
    for rank in range(ranks):
        found = written(target / f"rank{rank}" if ranks > 1 else target)
        formulas = cut(expected(quantization), rank, ranks, (8, 4))
        assert found.keys() == formulas.keys()
        for name, values in formulas.items():
            assert found[name].dtype == values.dtype, name
            if is_w4a8 and ".experts." in name and "down_proj.weight_scale" in name:  # sums of another order
                np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
            else:
                np.testing.assert_array_equal(found[name], values, err_msg=name)
