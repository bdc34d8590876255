"""What the self-check found out about one thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """One comparison or measurement.

    Attributes:
        name: of what was checked.
        passed: whether it is as it should be; True for a mere measurement.
        found: the figure, or the exception.
        means: what a failure says about the machine, for its owner.
        rate: what was measured, in the unit of ``found``; 0: nothing.
    """

    name: str
    passed: bool
    found: str
    means: str
    rate: float = 0.0


def compared(name: str, expected: Floats, actual: Floats, tolerance: float, means: str) -> Check:
    """Compare two arrays by their largest difference, in units of the largest expected number."""
    if actual.shape != expected.shape:
        return Check(name, passed=False, found=f"shape {actual.shape}, not {expected.shape}", means=means)
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    error = float(np.abs(actual - expected).max(initial=0.0)) / scale
    found = f"relative error {error:.2g}, allowed {tolerance:g}"
    return Check(name, passed=error <= tolerance, found=found, means=means)  # NaN fails, too
