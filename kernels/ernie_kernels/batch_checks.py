"""Checks of a ``Batch`` that need no device: every backend's ``upload`` calls them once per step.

Errors are ``ValueError`` with the field, its value and the limit: faults of the engine, not of a user.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch

_DIMENSIONS = {
    "token_ids": 1,
    "query_starts": 1,
    "context_lengths": 1,
    "block_tables": 2,
    "logit_rows": 1,
}


def check_batch(batch: Batch) -> None:
    """Check dtypes, shapes and row bounds.

    Raises:
        ValueError: a field does not fit the others, or no op here can use it.
    """
    for name, dimensions in _DIMENSIONS.items():
        array = getattr(batch, name)
        if array.dtype != np.int32 or array.ndim != dimensions:
            raise ValueError(
                f"batch.{name} is {array.dtype} {array.shape}, expected int32 with {dimensions} dimensions"
            )
    tokens, sequences = len(batch.token_ids), len(batch.context_lengths)
    _check_text(batch, tokens)
    _check_length("query_starts", batch.query_starts, sequences + 1)
    _check_length("block_tables", batch.block_tables, sequences)
    starts = batch.query_starts
    if starts[0] != 0 or starts[-1] != tokens or (np.diff(starts) < 0).any():
        raise ValueError(f"batch.query_starts {starts.tolist()} must rise from 0 to {tokens}")
    if (batch.context_lengths < 0).any():
        raise ValueError(f"batch.context_lengths {batch.context_lengths.tolist()} must not be negative")
    check_indices("batch.logit_rows", batch.logit_rows, tokens)


def _check_text(batch: Batch, tokens: int) -> None:
    """Check that all tokens are text: rotary embeddings have one axis, and embeddings come from a table."""
    if batch.positions.dtype != np.int32 or batch.positions.shape != (tokens,):
        raise ValueError(
            f"batch.positions is {batch.positions.dtype} {batch.positions.shape}, expected int32 ({tokens},): "
            "rotary embeddings have one axis"
        )
    if batch.media_rows is not None:
        raise ValueError(f"batch.media_rows has {len(batch.media_rows)} rows, but no op encodes media")


def check_indices(name: str, indices: NDArray[np.int32], limit: int) -> None:
    """Check that all indices are in 0 .. limit - 1.

    Raises:
        ValueError: one is not; the message names it.
    """
    wrong = indices[(indices < 0) | (indices >= limit)]
    if wrong.size:
        raise ValueError(f"{name} has {int(wrong[0])}, expected 0 to {limit - 1}")


def _check_length(name: str, array: NDArray[np.int32], expected: int) -> None:
    if len(array) != expected:
        raise ValueError(f"batch.{name} has length {len(array)}, expected {expected}")
