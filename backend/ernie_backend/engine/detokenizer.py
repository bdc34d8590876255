"""Tokens to text, a token at a time.

A token stands for bytes: a piece's text in UTF-8, or one byte of a character that the vocabulary lacks. The
bytes go through an incremental decoder, so that a character is passed on when it is complete, spaces are never
lost, and the cost of a token does not depend on the length of the answer. The pieces together always equal the
tokens decoded at once, without those that are skipped. Structural tokens are marked.
"""

from __future__ import annotations

import codecs
from collections.abc import Set as AbstractSet
from typing import Protocol

from ernie_wire.marked_text import Mark, MarkedText


class AnswerTokens(Protocol):
    """What the detokenizer needs of a tokenizer."""

    @property
    def structural_ids(self) -> frozenset[int]:
        """Tokens that are marked; each stands for whole characters."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        ...


class Detokenizer:
    """Decodes one answer.

    Args:
        tokenizer: knows the bytes of tokens.
        skipped_ids: tokens that are left out of the text.
    """

    def __init__(self, tokenizer: AnswerTokens, skipped_ids: AbstractSet[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._skipped_ids = skipped_ids
        self._structural_ids = tokenizer.structural_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> MarkedText:
        """Take the next token; return the characters that are complete now."""
        if token_id in self._skipped_ids:
            return MarkedText()
        token_bytes = self._tokenizer.token_bytes(token_id)
        text = self._decoder.decode(token_bytes)
        if token_id not in self._structural_ids:
            return MarkedText(text)
        # The mark begins after a U+FFFD, which precedes the token's text if a character was left incomplete.
        return MarkedText(text, (Mark(len(text) - len(token_bytes.decode()), len(text), token_id),))

    def skips(self, token_id: int) -> bool:
        """Whether a token is left out of the text."""
        return token_id in self._skipped_ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        return self._tokenizer.token_bytes(token_id)

    def finish(self) -> MarkedText:
        """Return U+FFFD for a character that stayed incomplete, else nothing."""
        return MarkedText(self._decoder.decode(b"", final=True))
