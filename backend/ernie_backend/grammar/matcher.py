"""llguidance's matchers, made from sources within limits; knows nothing of the rest of the engine.

A grammar that passes here once passes again: the limits count work, not time.
"""

from __future__ import annotations

from typing import NamedTuple

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

EMPTY = "Empty"
"""The error of a grammar that allows no token."""
TOO_COMPLEX = "TooComplex"
KILLED = "Killed"
"""The error of a grammar whose process somebody killed (``trial``); another time it may be compiled."""

_OPTIONS = '\n%llguidance {"no_forcing": true}\n'
"""At the end, where it counts: the model, not llguidance, divides a text into tokens."""
_LIMITS = LLParserLimits(
    max_items_in_row=4_000,  # twice the default, for 1,000 optional properties of one object
    max_grammar_size=40_000,  # of 500,000: the time grows with the square of the properties, and more
    max_lexer_states=50_000,  # a fifth of the default: 50 to 100 MB for one answer
    verbose_errors=False,
)


class Vocabulary(NamedTuple):
    """A model's tokens.

    Attributes:
        tokens: the bytes of each.
        special_ids: tokens that are never part of a text.
        eos_ids: those that a mask allows where a grammar may end, at least one.
    """

    tokens: list[bytes]
    special_ids: list[int]
    eos_ids: list[int]


class _Tokens:
    """A vocabulary as ``TokenizerWrapper`` reads it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = vocabulary.eos_ids[0]

    def __call__(self, text: bytes) -> list[int]:
        """Return no tokens: without forcing (``_OPTIONS``) nobody asks for those of a text."""
        del text
        return []


class Matchers:
    """Makes matchers for one vocabulary.

    Args:
        vocabulary: 0.2 to 0.5 s are needed for 100,000 tokens.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), eos_token=vocabulary.eos_ids)
        self._eos_bits = sum(1 << token_id for token_id in vocabulary.eos_ids)

    def make(self, source: str) -> tuple[LLMatcher, str]:
        """Return a matcher that has computed the first mask of a grammar, and its error or nothing.

        Args:
            source: in llguidance's variant of Lark.
        """
        matcher = LLMatcher(self._tokenizer, source + _OPTIONS, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            return matcher, matcher.get_error()
        allowed = int.from_bytes(matcher.compute_bitmask(), "little") & ~self._eos_bits
        if matcher.stop_reason().endswith(TOO_COMPLEX):
            return matcher, TOO_COMPLEX
        return matcher, _rollback_error(matcher, allowed) if allowed else EMPTY


def _rollback_error(matcher: LLMatcher, allowed: int) -> str:
    """Return why a token cannot be taken back: some features of Lark do not allow it, as only trying shows."""
    copy = matcher.deep_copy()
    copy.consume_token((allowed & -allowed).bit_length() - 1)
    copy.rollback(1)
    return copy.get_error()
