"""Checks of an opened checkpoint: that it holds the tensors of its model, and no other output head."""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np

from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.files import Checkpoint
from ernie_backend.weights.checkpoints.prequantized import missing_hint
from ernie_backend.weights.checkpoints.presharded import PreshardedCheckpoint
from ernie_backend.weights.recipes import HEAD, CheckpointTensor, is_harmless

logger = logging.getLogger(__name__)
_COMPARED_ROWS = 4096
_TERMS = (".bias", "norm.weight")
"""Suffixes of tensors that other decoders add or multiply, and that config.json need not mention."""
_UNTIED = (
    "; tie_word_embeddings is false in config.json, which makes the head a matrix of its own: set it to true "
    "if the embedding is the head too, or copy the checkpoint again"
)


def check_tensors(checkpoint: Checkpoint | PreshardedCheckpoint, specs: Collection[CheckpointTensor]) -> None:
    """Check that the tensors ``specs`` are present; one log line mentions all others.

    Raises:
        StartError: one is missing, has another shape, or is a bias or norm that the model does not have.
    """
    expected = {tensor.name: tensor.shape for tensor in specs}
    missing = sorted(name for name in expected if name not in checkpoint.names)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        hint = _UNTIED if missing[0] == HEAD else missing_hint(missing[0], checkpoint.names)
        raise StartError(
            f"{checkpoint.directory}: tensor {missing[0]}{more} is missing from the checkpoint{hint}"
        )
    for name, shape in expected.items():
        checkpoint.check_shape(name, shape)
    extra = sorted(name for name in checkpoint.names if name not in expected and not is_harmless(name))
    _refuse_terms(checkpoint, extra, expected)
    if extra:
        logger.warning(
            "%s: %d tensors that this model does not use are ignored, the first is %s",
            checkpoint.directory,
            len(extra),
            extra[0],
        )


def _refuse_terms(
    checkpoint: Checkpoint | PreshardedCheckpoint, extra: Collection[str], expected: Collection[str]
) -> None:
    """Refuse biases and norms among the ``extra`` tensors of layers, or of a head, that the model has."""
    owners = {_owner(name) for name in expected}
    for name in extra:
        if name.endswith(_TERMS) and _owner(name) in owners:
            raise StartError(
                f"{checkpoint.file_of(name)}: tensor {name} does not belong to an ERNIE-4.5 text model, whose "
                "layers have two norms and no bias; answers computed without it would be wrong"
            )


def _owner(name: str) -> str:
    """Return the layer that a tensor belongs to, ``model.layers.3``, or its name without the last word."""
    parts = name.split(".")
    return ".".join(parts[:3] if "layers" in parts[:2] else parts[:-1])


def check_tied_head(checkpoint: Checkpoint | PreshardedCheckpoint, table: CheckpointTensor) -> None:
    """Check that a checkpoint whose embedding ``table`` is its head brings no other head.

    Raises:
        StartError: it does; config.json must say so (tie_word_embeddings false).
    """
    if HEAD in checkpoint.names and not _is_copy(checkpoint, table):
        raise StartError(
            f"{checkpoint.file_of(HEAD)}: tensor {HEAD} differs from {table.name}, but config.json "
            "ties them: tie_word_embeddings is true, which is the default; set it to false"
        )


def _is_copy(checkpoint: Checkpoint | PreshardedCheckpoint, table: CheckpointTensor) -> bool:
    """Whether the head is the embedding, in either layout; unknown, so False, if the checkpoint was cut."""
    if isinstance(checkpoint, PreshardedCheckpoint):
        return False
    rows, head = checkpoint.tensor(table.name), checkpoint.tensor(HEAD)
    if head.shape != rows.shape:
        head = head.T
    starts = range(0, len(rows), _COMPARED_ROWS)
    return head.shape == rows.shape and all(
        np.array_equal(head[start : start + _COMPARED_ROWS], rows[start : start + _COMPARED_ROWS])
        for start in starts
    )
