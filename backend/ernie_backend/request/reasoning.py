"""Where the thinking in an answer begins and ends, by its token ids.

An answer thinks from its first token on if the last thinking tag of the prompt is ``<think>``, or if that first
token is ``<think>`` itself. The first ``</think>`` after that ends thinking; later tags mean nothing.
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

    Attributes:
        num_tokens: tokens of the answer so far.
    """

    def __init__(self, tags: ThinkTags, *, is_open: bool) -> None:
        self._tags = tags
        self._is_open = is_open
        self._begins_itself = False
        self._end: int | None = None
        self.num_tokens = 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of the answer so far that are thinking, up to and including ``</think>``."""
        if self._end is not None:
            return self._end
        return self.num_tokens if self.is_thinking else 0

    @property
    def is_thinking(self) -> bool:
        """Whether the next token is one of thinking."""
        return self._end is None and (self._is_open or self._begins_itself)

    def accept(self, token_id: int) -> None:
        """Take note of the next token of the answer."""
        self.num_tokens += 1
        if self.num_tokens == 1 and token_id == self._tags.begin:
            self._begins_itself = True
        elif self.is_thinking and token_id == self._tags.end:
            self._end = self.num_tokens

    def rollback(self, num_tokens: int) -> None:
        """Forget the last accepted tokens."""
        self.num_tokens -= num_tokens
        if self._end is not None and self._end > self.num_tokens:
            self._end = None
        if not self.num_tokens:
            self._begins_itself = False
