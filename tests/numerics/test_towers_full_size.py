"""Both vision towers at their real sizes with random weights: one picture, by C++ and by the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ernie_backend.models.base import VisionTower
from ernie_backend.models.vision import transformer
from ernie_backend.models.vision.dfnrope import DFNRopeTower
from ernie_backend.models.vision.navit import NaViTTower
from ernie_backend.models.vision.transformer import TowerPacker
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.dummy import DummyWeights
from ernie_cli.presets.released import RELEASED
from ernie_kernels.api import Ops
from ernie_kernels.formats import ActivationType
from ernie_kernels.reference import ReferenceOps
from numerics.backends import to_host
from numerics.ops_cases import ISAS, Floats, bits, cpu_ops, random_floats


def build(model: str, ops: Ops) -> VisionTower:
    config = RELEASED[model].shape.config
    assert config.vision is not None
    settings = LoadSettings("bfloat16", "wint8", ActivationType.INT16, max_model_len=64)
    packer = TowerPacker(DummyWeights(config, settings.dtype, settings.quantization), ops, settings)
    if config.vision.table_side:
        return NaViTTower(config.vision, packer)
    return DFNRopeTower(config.vision, packer, config.rms_norm_eps)


def encode(tower: VisionTower, ops: Ops, height: int, width: int) -> Floats:
    results: list[Any] = []

    def collect() -> Any:
        pixels = ops.upload_rows(random_floats(1, height * width, 3 * 14 * 14))
        results.append((yield from tower.encode(pixels, (1, height, width))))

    assert sum(1 for _ in collect()) > 1
    return to_host(results[0])


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("model", "hidden"), [("PaddleOCR-VL", 1024), ("ERNIE-4.5-VL-28B-A3B", 2560)])
def test_a_picture(model: str, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ops, reference = cpu_ops(ISAS[-1]), ReferenceOps()
    tower = build(model, ops)
    small = encode(tower, ops, 4, 6)
    expected = encode(build(model, reference), reference, 4, 6)
    assert (np.linalg.norm(small - expected, axis=1) <= 0.05 * np.linalg.norm(expected, axis=1)).all()
    large = encode(tower, ops, 32, 36)
    assert large.shape == (288, hidden)
    assert np.isfinite(large).all()
    monkeypatch.setattr(transformer, "BLOCK", 300)
    np.testing.assert_array_equal(bits(encode(tower, ops, 32, 36)), bits(large))
