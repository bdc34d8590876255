"""A model's tokens as llguidance's.

What is special there, and so never part of a text, are the tokens that chats reserve
(``Tokenizer.reserved_ids``), those that end answers, and those that stand for no bytes. Grammars name a token
by ``<[id]>``, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Collection

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.matcher import Vocabulary


def vocabulary(tokenizer: Tokenizer, eos_token_ids: Collection[int]) -> Vocabulary:
    """Return the tokens of a tokenizer: masks have a bit for each of its ``vocab_size`` tokens.

    Args:
        tokenizer: of the model.
        eos_token_ids: tokens of it that end answers, at least one.
    """
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    empty = (token_id for token_id, token in enumerate(tokens) if not token)
    special_ids = sorted(tokenizer.reserved_ids.union(eos_token_ids, empty))
    return Vocabulary(tokens, special_ids, sorted(eos_token_ids))
