"""Stop strings, matched on text, however it is cut into tokens.

The answer ends where the first stop string is complete; the stop string is part of it only if the request says
so. Text that may be the beginning of a stop string is held back until that is decided. A structural token is in
the answer as a whole or not at all, so that its parser never sees half a tag. The result depends on the text
alone, not on how it was cut into pieces.
"""

from __future__ import annotations

from ernie_wire.marked_text import MarkedText, joined


class StopMatcher:
    """Passes text on until a stop string is complete."""

    def __init__(self, stops: tuple[str, ...], *, is_included: bool = False) -> None:
        self._stops = stops
        self._is_included = is_included
        self._held = MarkedText()
        self.is_stopped = False

    def push(self, piece: MarkedText, *, may_stop: bool = True) -> MarkedText:
        """Take the next piece of text; return the text that is certainly part of the answer.

        A stop string that is complete within a piece that may not stop does not end the answer.
        """
        if self.is_stopped:
            return MarkedText()
        if not self._stops:
            return piece
        # Only matches that end in the new piece matter: earlier ones would have ended the answer before.
        num_held, answer = len(self._held.text), joined((self._held, piece))
        matches = [
            (start + len(stop), start)
            for stop in self._stops
            if (start := answer.text.find(stop, max(0, num_held - len(stop) + 1))) >= 0
        ]
        if matches and may_stop:
            self.is_stopped, self._held = True, MarkedText()
            end, start = min(matches)  # the first that is complete; of those, the one that began first
            return answer.cut(0, answer.place_after(end) if self._is_included else answer.place_before(start))
        border = answer.place_before(len(answer.text) - self._held_length(answer.text))
        self._held = answer.cut(border)
        return answer.cut(0, border)

    def finish(self) -> MarkedText:
        """Return the text held back: nothing follows that could complete a stop string."""
        held, self._held = self._held, MarkedText()
        return held

    def _held_length(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that begins a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
