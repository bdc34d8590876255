"""Answers that a token mask allows, chosen at random: what a model without any sense would write."""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.request.sampling import TokenMask

_CLOSING = (b'"', b"}", b"]", b",", b":", b" ")


def allowed(mask: TokenMask, vocab_size: int) -> list[int]:
    """Return the tokens that may come next."""
    row: NDArray[np.uint32] = np.zeros(-(-vocab_size // 32), np.uint32)
    mask.fill(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")[:vocab_size]
    return [int(token_id) for token_id in np.flatnonzero(bits)]


def walk(
    mask: TokenMask,
    tokenizer: Tokenizer,
    end_ids: Collection[int],
    choices: random.Random,
    max_tokens: int = 400,
) -> tuple[list[int], bool]:
    """Return the tokens of an answer without its end, and whether it ended.

    The longer the answer, the rather is a token chosen that ends it, or ends something in it.
    """
    answer: list[int] = []
    while len(answer) < max_tokens and not mask.is_complete:
        tokens = allowed(mask, tokenizer.vocab_size)
        ends = [token_id for token_id in tokens if token_id in end_ids]
        closing = [each for each in tokens if tokenizer.token_bytes(each) in _CLOSING]
        is_closing = choices.random() < 0.2 + len(answer) / 100
        if ends and (is_closing or len(ends) == len(tokens)):
            return answer, True
        others = (closing if is_closing else None) or [each for each in tokens if each not in end_ids]
        token_id = choices.choice(others)
        mask.accept(token_id)
        answer.append(token_id)
    return answer, mask.is_complete


def spelled(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return tokens of a text, each of which is one byte, if the tokenizer has those."""
    return [_single_bytes(tokenizer)[bytes([byte])] for byte in text.encode()]


@cache
def _single_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    return {
        tokenizer.token_bytes(each): each
        for each in range(tokenizer.vocab_size)
        if each not in tokenizer.reserved_ids and len(tokenizer.token_bytes(each)) == 1
    }


def follows(mask: TokenMask, answer: Collection[int], vocab_size: int) -> int:
    """Accept the tokens of an answer as far as they are allowed; return how many are."""
    for count, token_id in enumerate(answer):
        if mask.is_complete or token_id not in allowed(mask, vocab_size):
            return count
        mask.accept(token_id)
    return len(answer)
