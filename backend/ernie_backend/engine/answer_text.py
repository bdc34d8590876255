"""The text of one answer: detokenizer, then stop strings.

This module must not know sampling or scheduling.
"""

from __future__ import annotations

from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.stop import StopMatcher


class AnswerText:
    """Turns the tokens of an answer into its text."""

    def __init__(self, detokenizer: Detokenizer, stop: StopMatcher) -> None:
        self._detokenizer = detokenizer
        self._stop = stop

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._stop.is_stopped

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that is certain now."""
        return self._stop.push(self._detokenizer.push(token_id))

    def finish(self) -> str:
        """Return all text that was held back."""
        text = self._stop.push(self._detokenizer.finish())
        return text + self._stop.finish()
