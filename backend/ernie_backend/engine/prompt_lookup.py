"""Drafts by prompt lookup (Saxena, 2023): what followed the last tokens where they stood before.

    text        ... the sum of all parts is 12 ... so the sum of
    draft                                                        all parts is 12

A draft costs a row of the step that checks it, and saves a step if it is right. Answers that quote their
prompt, such as summaries and edits of code, are drafted well, others hardly. So there are twice as many drafts
after those that were all right, up to the limit; after wrong ones there are none for a pause, which doubles. A
longer match than the last that was wrong does not wait: where an answer begins to copy again, its match grows
with every token. And after a match of the greatest length there are always as many drafts as there may be.
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
        self._match_length = 0  # of the last drafts
        self._pause = 0
        self._pause_length = 0  # longest match that waits for the end of the pause
        self._resumes_at = 0

    def propose(self) -> tuple[int, ...]:
        """Return guesses of the tokens that follow; none without a match, or in a pause."""
        known, config = self._sequence.token_ids, self._config
        self._tokens[self._num_tokens : len(known)] = known[self._num_tokens :]
        self._num_tokens = len(known)
        end, length = self._match()
        is_paused = len(known) < self._resumes_at and length <= self._pause_length
        if length < config.prompt_lookup_min or is_paused:
            return ()
        self._match_length = length
        is_longest = length == config.prompt_lookup_max
        num_drafts = config.num_speculative_tokens if is_longest else self._num_drafts
        # Text that repeats itself is expected to go on with it: the draft begins anew where it reaches the end.
        return tuple(np.resize(self._tokens[end : self._num_tokens], num_drafts).tolist())

    def report(self, num_drafts: int, num_accepted: int) -> None:
        """Note how many of the drafts that a step checked, at least one, were right."""
        if num_accepted == num_drafts:
            self._num_drafts = min(self._config.num_speculative_tokens, 2 * self._num_drafts)
        else:
            self._num_drafts = num_accepted + 1
        if num_accepted:
            self._pause = self._pause_length = 0
        else:
            self._pause = min(_LONGEST_PAUSE, max(1, 2 * self._pause))
            self._pause_length = max(self._pause_length, self._match_length)
            self._resumes_at = len(self._sequence.token_ids) + self._pause

    def _match(self) -> tuple[int, int]:
        """Return where the last tokens end in the text before them, and how many they are; 0: nowhere.

        It is the longest match of at most ``prompt_lookup_max`` tokens, of these the latest.
        """
        tokens = self._tokens[: self._num_tokens]
        ends = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1  # of matches of one token
        if not len(ends):
            return 0, 0
        length = 1
        while length < min(self._config.prompt_lookup_max, len(tokens) - 1):
            longer = ends[ends > length]
            longer = longer[tokens[longer - length - 1] == tokens[-length - 1]]
            if not len(longer):
                break
            ends, length = longer, length + 1
        return int(ends[-1]), length
