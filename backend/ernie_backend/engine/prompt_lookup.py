"""Drafts by prompt lookup (Saxena, 2023): what followed the last tokens where they stood before.

    text        ... the sum of all parts is 12 ... so the sum of
    draft                                                        all parts is 12

A draft costs a row of the step that checks it, and saves a step if it is right. Answers that quote their
prompt, such as summaries and edits of code, are drafted well, others hardly. So there are twice as many drafts
after those that were all right, up to the limit; after wrong ones there are none for a pause, which doubles.
"""

from __future__ import annotations

import numpy as np

from ernie_backend.request.sequence import Sequence
from ernie_backend.settings.speculative_config import SpeculativeConfig

_LONGEST_PAUSE = 64


class PromptLookup:
    """Drafts for one sequence.

    Args:
        sequence: whose tokens are drafted.
        config: how many, and after which matches.
    """

    def __init__(self, sequence: Sequence, config: SpeculativeConfig) -> None:
        self._sequence = sequence
        self._config = config
        self._tokens = np.empty(sequence.max_total_tokens, np.int32)
        self._num_tokens = 0
        self._num_drafts = config.num_speculative_tokens
        self._pause = 0
        self._resumes_at = 0

    def propose(self) -> tuple[int, ...]:
        """Return guesses of the tokens that follow; none without a match, or in a pause."""
        known = self._sequence.token_ids
        if len(known) < self._resumes_at:
            return ()
        self._tokens[self._num_tokens : len(known)] = known[self._num_tokens :]
        self._num_tokens = len(known)
        end = self._end_of_match()
        if end is None:
            return ()
        # Text that repeats itself is expected to go on with it: the draft begins anew where it reaches the end.
        return tuple(np.resize(self._tokens[end : self._num_tokens], self._num_drafts).tolist())

    def report(self, num_drafts: int, num_accepted: int) -> None:
        """Note how many of the drafts that a step checked, at least one, were right."""
        if num_accepted == num_drafts:
            self._num_drafts = min(self._config.num_speculative_tokens, 2 * self._num_drafts)
        else:
            self._num_drafts = num_accepted + 1
        self._pause = 0 if num_accepted else min(_LONGEST_PAUSE, max(1, 2 * self._pause))
        self._resumes_at = len(self._sequence.token_ids) + self._pause

    def _end_of_match(self) -> int | None:
        """Return where the last tokens end in the text before them: the longest match, of these the latest.

        A match has ``prompt_lookup_min`` to ``prompt_lookup_max`` tokens.
        """
        tokens = self._tokens[: self._num_tokens]
        longest = min(self._config.prompt_lookup_max, len(tokens) - 1)
        if longest < self._config.prompt_lookup_min:
            return None
        ends = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1  # of matches of one token
        for length in range(2, longest + 1):
            longer = ends[ends >= length]
            longer = longer[tokens[longer - length] == tokens[-length]]
            if not len(longer):
                return int(ends[-1]) if length > self._config.prompt_lookup_min and len(ends) else None
            ends = longer
        return int(ends[-1]) if len(ends) else None
