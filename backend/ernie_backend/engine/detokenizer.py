"""Tokens to text, a token at a time.

A token stands for bytes: a piece's text in UTF-8, or one byte of a character that the vocabulary lacks. The
bytes go through an incremental decoder, so that a character is passed on when it is complete, spaces are never
lost, and the cost of a token does not depend on the length of the answer. The pieces together always equal the
tokens decoded at once. This module must not know what a token means to the model.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """What the detokenizer needs of a tokenizer."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        ...


class Detokenizer:
    """Decodes one answer."""

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Take the next token; return the characters that are complete now."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        return self._tokenizer.token_bytes(token_id)

    def finish(self) -> str:
        """Return U+FFFD for a character that stayed incomplete, else nothing."""
        return self._decoder.decode(b"", final=True)
