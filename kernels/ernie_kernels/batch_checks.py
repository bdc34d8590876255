"""Checks of a ``Batch`` that need no device: every backend's ``upload`` calls them once per step.

Errors are ``ValueError`` with the field, its value and the limit: faults of the engine, not of a user.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, RotarySpec
from ernie_kernels.sampling import ROW, TokenChoices

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
    _check_positions(batch.positions, tokens)
    _check_length("query_starts", batch.query_starts, sequences + 1)
    _check_length("block_tables", batch.block_tables, sequences)
    starts = batch.query_starts
    if starts[0] != 0 or starts[-1] != tokens or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"batch.query_starts {starts.tolist()} must rise from 0 to {tokens}")
    if (batch.context_lengths < 0).any():
        raise ValueError(f"batch.context_lengths {batch.context_lengths.tolist()} must not be negative")
    check_indices("batch.logit_rows", batch.logit_rows, tokens)
    _check_rows("batch.media_rows", batch.media_rows, tokens)
    _check_rows("batch.vision_rows", batch.vision_rows, tokens)
    if batch.choices is not None:
        _check_choices(batch.choices, len(batch.logit_rows))


def _check_positions(positions: NDArray[np.int32], tokens: int) -> None:
    if positions.dtype != np.int32 or positions.ndim not in (1, 2) or positions.shape[-1] != tokens:
        raise ValueError(
            f"batch.positions is {positions.dtype} {positions.shape}, expected int32 ({tokens},) or "
            f"(axes, {tokens})"
        )


def _check_rows(name: str, rows: NDArray[np.int32] | None, tokens: int) -> None:
    """Check that ``rows`` are rows of the batch, each once, in rising order."""
    if rows is None:
        return
    if rows.dtype != np.int32 or rows.ndim != 1:
        raise ValueError(f"{name} is {rows.dtype} {rows.shape}, expected int32 with 1 dimension")
    check_indices(name, rows, tokens)
    if (np.diff(rows) <= 0).any():
        raise ValueError(f"{name} {rows.tolist()} must rise")


def _check_choices(choices: TokenChoices, num_logits: int) -> None:
    _check_rows("batch.choices.places", choices.places, num_logits)
    if choices.sampling.dtype != ROW or choices.sampling.shape != choices.places.shape:
        raise ValueError(
            f"batch.choices.sampling is {choices.sampling.dtype} {choices.sampling.shape}, expected a record "
            f"of sampling for each of {len(choices.places)} places"
        )
    if choices.vocab_size < 1:
        raise ValueError(f"batch.choices.vocab_size is {choices.vocab_size}, expected at least 1")


def media_rows(batch: Batch, count: int) -> NDArray[np.int32]:
    """Return the rows whose embeddings come from an encoder.

    Raises:
        ValueError: there are not ``count`` of them.
    """
    rows = np.zeros(0, np.int32) if batch.media_rows is None else batch.media_rows
    _check_length("media_rows", rows, count)
    return rows


def check_axes(positions: NDArray[np.int32], spec: RotarySpec) -> None:
    """Check that positions have angles in the table of ``spec``.

    Raises:
        ValueError: they have another number of axes, or are outside of the table.
    """
    if positions.ndim == 2 and len(positions) != spec.num_axes:
        raise ValueError(f"batch.positions has {len(positions)} axes, the rotary embedding {spec.num_axes}")
    check_indices("batch.positions", positions, spec.max_positions)


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
