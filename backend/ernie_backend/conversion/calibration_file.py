"""Keeps in a file what was measured, so that an interrupted conversion need not measure it again.

This module must not know how anything is measured.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from ernie_backend.conversion.calibration import Calibration, CalibrationState
from ernie_backend.conversion.tensor_file import tensor_file
from ernie_backend.errors import StartError
from ernie_backend.weights.safetensors_file import SafetensorsFile

_MEASURED = [field.name for field in fields(Calibration)]
_NAMES = ["layers", "hidden", *_MEASURED]


def write_state(path: Path, state: CalibrationState) -> None:
    """Write how far a calibration has come to ``path``."""
    with tensor_file(path, _NAMES) as file:
        file.add("layers", np.array([state.layers], np.float32))
        file.add("hidden", state.hidden)
        for name in _MEASURED:
            file.add(name, getattr(state.measured, name))


def read_state(path: Path) -> CalibrationState | None:
    """Return what ``write_state`` has written; None if there is nothing, or it is damaged."""
    try:
        file = SafetensorsFile(path)
    except StartError:
        return None
    try:
        if file.entries.keys() != set(_NAMES):
            return None
        found = {name: np.array(file.tensor(name), np.float32) for name in _NAMES}
    finally:
        file.close()
    measured = Calibration(**{name: found[name] for name in _MEASURED})
    return CalibrationState(int(found["layers"][0]), found["hidden"], measured)
