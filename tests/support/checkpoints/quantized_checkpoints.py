"""Small quantized checkpoints, made by our converter of those in tests/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_kernels.formats import LinearWeight, W4A8Weight
from support.paths import DATA

TEXTS = [np.random.default_rng(seed).integers(3, 560, 40).tolist() for seed in range(6)]
"""Token ids to calibrate with."""


def make(
    source: str, target: Path, quantization: str, *, has_cache_scales: bool = False, ranks: int = 1
) -> Path:
    """Convert the checkpoint ``source`` of tests/data; returns ``target``."""
    how = QuantizationConfig(quantization, has_cache_scales=has_cache_scales)
    quantize_checkpoint(QuantizationJob(DATA / source, target, how, ranks, TEXTS), lambda line: None)
    return target


def assert_same_files(found: Path, expected: Path) -> None:
    """Check that two directories hold the same files."""
    files = sorted(path.relative_to(expected) for path in expected.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(found) for path in found.rglob("*") if path.is_file())
    for file in files:
        assert (found / file).read_bytes() == (expected / file).read_bytes()


def assert_same(found: LinearWeight, expected: LinearWeight) -> None:
    """Check that two weights have the same format and numbers."""
    assert type(found) is type(expected)
    if isinstance(found, W4A8Weight) and isinstance(expected, W4A8Weight):
        assert (found.input_scale, found.rotation) == (expected.input_scale, expected.rotation)
        return assert_same(found.weight, expected.weight)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)
