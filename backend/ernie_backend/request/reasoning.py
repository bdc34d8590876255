"""Where the thinking in an answer begins and ends, by its token ids.

An answer begins within thinking if the last thinking tag of its prompt is ``<think>``. After that, ``<think>``
begins thinking and ``</think>`` ends it; the tags are part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ThinkTags(NamedTuple):
    """The ids of ``<think>`` and ``</think>``."""

    begin: int
    end: int

    def are_open(self, prompt_ids: Sequence[int]) -> bool:
        """Return whether a prompt ends within thinking."""
        return next((each for each in reversed(prompt_ids) if each in self), self.end) == self.begin


class ReasoningTracker:
    """Follows one answer.

    Args:
        tags: of the model.
        is_open: whether the prompt ends within thinking.
    """

    def __init__(self, tags: ThinkTags, *, is_open: bool) -> None:
        self._tags = tags
        self._states = [
            (is_open, 0)
        ]  # ``is_thinking`` and ``num_reasoning_tokens``, at first and after each token

    @property
    def is_thinking(self) -> bool:
        """Whether the next token is one of thinking."""
        return self._states[-1][0]

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of the answer so far that are thinking."""
        return self._states[-1][1]

    def accept(self, token_id: int) -> None:
        """Take note of the next token of the answer."""
        begins, (is_thinking, count) = token_id == self._tags.begin, self._states[-1]
        goes_on = begins or (is_thinking and token_id != self._tags.end)
        self._states.append((goes_on, count + (begins or is_thinking)))

    def rollback(self, num_tokens: int) -> None:
        """Forget the last accepted tokens."""
        del self._states[len(self._states) - num_tokens :]
