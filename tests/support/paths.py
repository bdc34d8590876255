"""Where things are in this checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
"""Triton's, with the embedded model."""
DATA = ROOT / "tests" / "data"
DENSE = DATA / "dense"
"""A small dense checkpoint with a tokenizer."""
