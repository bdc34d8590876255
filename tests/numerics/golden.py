"""The goldens of the dense oracle checkpoint: what an independent float32 implementation computed.

Four prompts (rows) of 1, 5, 12 and 23 tokens; last logits and 32 greedy tokens for each. Row 2 also has every
hidden state: the embeddings and the residual stream after each layer, the final norm and all logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parents[1] / "data"
DIRECTORIES = {"hf": DATA / "dense", "paddle": DATA / "dense-Paddle"}
LOGITS_TOLERANCE = 1e-3
HIDDEN_TOLERANCE = 5e-4
DETAILED_ROW = 2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class GoldenRow:
    """One prompt: ``logits`` float32 ``[V]`` of its last token, ``greedy`` the 32 tokens after it."""

    prompt: list[int]
    logits: Floats
    greedy: list[int]


@dataclass(frozen=True)
class GoldenDetails:
    """Row 2 at every token: hidden ``[layers + 1, 12, H]``, final_norm ``[12, H]``, logits ``[12, V]``."""

    hidden: Floats
    final_norm: Floats
    logits: Floats


def golden_rows() -> list[GoldenRow]:
    with np.load(DATA / "dense.npz") as arrays:
        return [
            GoldenRow(
                arrays[f"row{row}.input_ids"].tolist(),
                arrays[f"row{row}.logits_last"],
                arrays[f"row{row}.greedy"].tolist(),
            )
            for row in range(4)
        ]


def golden_details() -> GoldenDetails:
    with np.load(DATA / "dense.npz") as arrays:
        row = f"row{DETAILED_ROW}."
        return GoldenDetails(arrays[row + "hidden"], arrays[row + "final_norm"], arrays[row + "logits"])


def max_difference(found: Floats, expected: Floats) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


def cosine(found: Floats, expected: Floats) -> float:
    """The smallest cosine of two matrices' rows."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))).min())
