"""The tokens that may come next in an answer with a grammar: ``TokenMask`` (``request/sampling.py``)."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from ernie_backend.request.sampling import TokenMask
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

Mask = NDArray[np.uint32]


class GrammarMask:
    """Follows an answer through its grammar.

    Args:
        matcher: at the beginning of the grammar; this object's own.
        excluded_ids: tokens that end the answer, if they are not to be chosen (``ignore_eos``).
    """

    def __init__(self, matcher: LLMatcher, excluded_ids: Collection[int] = ()) -> None:
        self._matcher = matcher
        self._excluded_ids = excluded_ids

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def fill(self, mask: Mask, /) -> None:
        """Set a row ``[ceil(V / 32)]``: see ``TokenMask``.

        Raises:
            InvalidValue: the grammar has become too complex at this place of the answer.
        """
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise InvalidValue(
                f"the grammar cannot follow this answer any further ({reason}); make it simpler: fewer "
                "alternatives in one place, fewer optional properties",
                FIELD,
            )
        exclude(mask, self._excluded_ids)

    def accept(self, token_id: int, /) -> None:
        """Take the next token of the answer."""
        self._matcher.consume_token(token_id)

    def rollback(self, num_tokens: int, /) -> None:
        """Forget the last tokens."""
        self._matcher.rollback(num_tokens)


class MaskAfter:
    """Another mask, from a token on: what comes before is free, but does not end the answer.

    So the grammar of an answer that begins inside thinking begins after ``</think>``.

    Args:
        mask: of what follows.
        begin_id: the token after which it begins.
        end_ids: tokens that end answers.
    """

    def __init__(self, mask: TokenMask, begin_id: int, end_ids: Collection[int]) -> None:
        self._mask = mask
        self._begin_id = begin_id
        self._end_ids = end_ids
        self._num_followed = -1  # tokens since ``begin_id``; -1: it has not come

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._num_followed >= 0 and self._mask.is_complete

    def fill(self, mask: Mask, /) -> None:
        """Set a row ``[ceil(V / 32)]``."""
        if self._num_followed >= 0:
            self._mask.fill(mask)
        else:
            mask.fill(0xFFFFFFFF)
            exclude(mask, self._end_ids)

    def accept(self, token_id: int, /) -> None:
        """Take the next token of the answer."""
        if self._num_followed >= 0:
            self._num_followed += 1
            self._mask.accept(token_id)
        elif token_id == self._begin_id:
            self._num_followed = 0

    def rollback(self, num_tokens: int, /) -> None:
        """Forget the last tokens."""
        if self._num_followed < 0:
            return
        self._mask.rollback(min(num_tokens, self._num_followed))
        self._num_followed = max(self._num_followed - num_tokens, -1)


def exclude(mask: Mask, token_ids: Collection[int]) -> None:
    """Clear the bits of some tokens."""
    for token_id in token_ids:
        mask[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
