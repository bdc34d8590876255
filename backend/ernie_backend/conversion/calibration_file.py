"""Keeps in a file what was measured, so that an interrupted conversion need not measure it again.

This module must not know how anything is measured.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from ernie_backend.conversion.calibration import Calibration
from ernie_backend.conversion.tensor_file import tensor_file
from ernie_backend.errors import StartError
from ernie_backend.weights.safetensors_file import SafetensorsFile
from ernie_backend.weights.stored_floats import as_float32

NAMES = [field.name for field in fields(Calibration)]


def write_calibration(path: Path, measured: Calibration) -> None:
    """Write what was measured to ``path``."""
    with tensor_file(path, NAMES) as file:
        for name in NAMES:
            file.add(name, getattr(measured, name))


def read_calibration(path: Path) -> Calibration | None:
    """Return what ``write_calibration`` has written; None if there is nothing, or it is damaged."""
    try:
        file = SafetensorsFile(path)
    except StartError:
        return None
    try:
        if file.entries.keys() != set(NAMES):
            return None
        return Calibration(**{name: np.array(as_float32(file.tensor(name))) for name in NAMES})
    finally:
        file.close()
