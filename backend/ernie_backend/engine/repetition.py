"""The repetition guard: notices that an answer repeats a pattern of tokens again and again.

For each size of a pattern it knows for how many tokens, up to the last that it looked at, each token has been
equal to the one a pattern before it. So it also knows how many further tokens a loop needs at least, and looks
again only then, at all new tokens at once. A token costs time in proportion to the number of sizes, and most of
them next to none, whatever the answer's length; what is kept does not grow either.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ernie_wire.repetition import RepetitionDetection

_MAX_UNSEEN = 32
"""Most new tokens until it looks again: all answers of a batch may be looked at between the same steps."""


class RepetitionGuard:
    """Follows one answer, token by token."""

    def __init__(self, detection: RepetitionDetection) -> None:
        """Begin an answer.

        Args:
            detection: says what a loop is; ``max_pattern_size`` is at least 1.
        """
        sizes = np.arange(max(1, detection.min_pattern_size), detection.max_pattern_size + 1)
        counts = np.maximum(detection.min_count, -(-detection.min_repeated_tokens // sizes))
        self._needed = sizes * (counts - 1)  # the first pattern is not equal to anything before it
        self._equal = np.zeros_like(sizes)
        self._seen = np.full(detection.max_pattern_size, -1)  # the last tokens
        self._unseen: list[int] = []
        self._max_unseen = min(int(self._needed.min()), _MAX_UNSEEN)

    def push(self, token_id: int) -> bool:
        """Take the next token of the answer; return whether the answer ends with a loop now."""
        self._unseen.append(token_id)
        if len(self._unseen) < self._max_unseen:
            return False
        self._look()
        missing = int((self._needed - self._equal).min())
        self._max_unseen = min(max(missing, 1), _MAX_UNSEEN)
        return missing <= 0

    def _look(self) -> None:
        """Count the equal tokens of each size up to the newest token."""
        number, longest = len(self._unseen), len(self._seen)
        tokens = np.concatenate([self._seen, self._unseen])
        # A row for each size: the tokens that stand a pattern of that size before the new ones.
        before = sliding_window_view(tokens, number)[len(self._equal) - 1 :: -1]
        differs = (before != tokens[longest:])[:, ::-1]
        self._equal = np.where(differs.any(axis=1), differs.argmax(axis=1), self._equal + number)
        self._seen = tokens[number:]
        self._unseen = []
