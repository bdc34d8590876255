"""A model's tokens as llguidance's.

What is special there, and so never part of a text, are the tokens that chats reserve
(``Tokenizer.reserved_ids``), those that end answers, and those that stand for no bytes. Grammars name a token
by ``<[id]>``, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Collection

from llguidance import LLTokenizer, TokenizerWrapper

from ernie_backend.chat.tokenizer import Tokenizer


class _Tokens:
    """What ``TokenizerWrapper`` reads."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Collection[int]) -> None:
        self.eos_token_id = min(eos_token_ids)
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        empty = (token_id for token_id, token in enumerate(self.tokens) if not token)
        self.special_token_ids = sorted(tokenizer.reserved_ids.union(eos_token_ids, empty))

    def __call__(self, text: bytes) -> list[int]:
        """Return no tokens: without forcing (``compiler``), the spelling of a text is the model's choice."""
        del text
        return []


def vocabulary(tokenizer: Tokenizer, eos_token_ids: Collection[int]) -> LLTokenizer:
    """Return a tokenizer as llguidance's, whose masks have a bit for each of its ``vocab_size`` tokens.

    Args:
        tokenizer: of the model; 0.2 s are needed for 100,000 tokens.
        eos_token_ids: tokens of it that a mask allows where the grammar may end, at least one.
    """
    return LLTokenizer(TokenizerWrapper(_Tokens(tokenizer, eos_token_ids)), eos_token=sorted(eos_token_ids))
