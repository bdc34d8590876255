"""Small quantized checkpoints, made by our converter of those in tests/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ernie_backend.conversion.conversion import Conversion, wanted
from ernie_backend.conversion.converter import convert

DATA = Path(__file__).parents[2] / "data"
TEXTS = [np.random.default_rng(seed).integers(3, 560, 40).tolist() for seed in range(6)]
"""Token ids to calibrate with."""


def make(
    source: str, target: Path, quantization: str, *, has_cache_scales: bool = False, ranks: int = 1
) -> Path:
    """Convert the checkpoint ``source`` of tests/data; returns ``target``."""
    how = wanted(quantization, has_cache_scales=has_cache_scales)
    convert(Conversion(DATA / source, target, how, ranks, TEXTS), lambda line: None)
    return target
