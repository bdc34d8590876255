"""The text of one answer: detokenizer, then stop strings.

This module must not know sampling or scheduling.
"""

from __future__ import annotations

from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.stop import StopMatcher
from ernie_wire.marked_text import MarkedText, joined


class AnswerText:
    """Turns the tokens of an answer into its text."""

    def __init__(self, detokenizer: Detokenizer, stop: StopMatcher) -> None:
        self._detokenizer = detokenizer
        self._stop = stop

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._stop.is_stopped

    def push(self, token_id: int, *, may_stop: bool = True) -> MarkedText:
        """Take the next token; return the text that is certain now. ``may_stop``: see ``StopMatcher.push``."""
        return self._stop.push(self._detokenizer.push(token_id), may_stop=may_stop)

    def finish(self, last_id: int | None = None) -> MarkedText:
        """Return all text that was held back, and that of ``last_id``, which ends the answer as part of it."""
        text = self._detokenizer.push(last_id) if last_id is not None else MarkedText()
        text = self._stop.push(joined((text, self._detokenizer.finish())))
        return joined((text, self._stop.finish()))

    def skips(self, token_id: int) -> bool:
        """Whether a token is no part of the text."""
        return self._detokenizer.skips(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        return self._detokenizer.token_bytes(token_id)
