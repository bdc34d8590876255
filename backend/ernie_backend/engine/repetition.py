"""The repetition guard: notices that an answer repeats a pattern of tokens again and again.

For each size of a pattern it counts for how many tokens, up to the newest, each token has been equal to the
one a pattern before it. A token costs time in proportion to the number of sizes, whatever the answer's length.
What is kept does not grow either: these counts, and the last ``max_pattern_size`` tokens.
"""

from __future__ import annotations

import numpy as np

from ernie_wire.repetition import RepetitionDetection


class RepetitionGuard:
    """Follows one answer, token by token."""

    def __init__(self, detection: RepetitionDetection) -> None:
        """Begin an answer.

        Args:
            detection: says what a loop is; ``max_pattern_size`` is at least 1.
        """
        least, self._most = max(1, detection.min_pattern_size), detection.max_pattern_size
        sizes = np.arange(least, self._most + 1)
        counts = np.maximum(detection.min_count, -(-detection.min_repeated_tokens // sizes))
        self._needed = sizes * (counts - 1)  # the first pattern is not equal to anything before it
        self._equal = np.zeros_like(sizes)  # tokens up to the newest that equal the one ``size`` before them
        self._skipped = least - 1
        # The last tokens, the newest first, from ``_begin``; before it is room for newer ones.
        self._recent = np.full(2 * self._most, -1)
        self._begin = self._most

    def push(self, token_id: int) -> bool:
        """Take the next token of the answer; return whether the answer ends with a loop now."""
        before = self._recent[self._begin + self._skipped : self._begin + self._most]
        self._equal += 1
        self._equal *= before == token_id
        if self._begin == 0:
            self._recent[self._most :] = self._recent[: self._most]
            self._begin = self._most
        self._begin -= 1
        self._recent[self._begin] = token_id
        return bool((self._equal >= self._needed).any())
