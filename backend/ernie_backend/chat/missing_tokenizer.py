"""Stands where a tokenizer would, for a directory that has none: token ids in, token ids out, no text.

Only a model with dummy weights is served like this. This module must not know requests or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ernie_backend.chat.tokenizer import MODEL_FILES
from ernie_wire.errors import InvalidValue


class MissingTokenizer:
    """A tokenizer that refuses text and makes none.

    Args:
        directory: the model directory that lacks a tokenizer.
        vocab_size: token ids that the model knows.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        self._directory = directory
        self.vocab_size = vocab_size
        self.longest_token_bytes = 0
        self.special_ids = self.structural_ids = frozenset[int]()

    def encode(self, text: str) -> tuple[int, ...]:
        """Raise InvalidValue: there is nothing to encode ``text`` with."""
        raise InvalidValue(
            f"a prompt of {len(text)} characters cannot be read: {self._directory} has no {MODEL_FILES[0]}; "
            "send token ids instead"
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return no bytes, whatever ``token_id`` is."""
        del token_id
        return b""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return no text for ``token_ids``."""
        del token_ids
        return ""
