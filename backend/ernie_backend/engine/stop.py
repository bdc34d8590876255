"""Stop strings, matched on text: whatever tokens it came in.

The answer ends where the first stop string is complete; the stop string is part of it only if that is asked
for. Text that may be the beginning of a stop string is held back until it is known. The result depends on the
text alone, not on how it was cut into pieces. This module must not know tokens.
"""

from __future__ import annotations


class StopMatcher:
    """Passes text on until a stop string is complete."""

    def __init__(self, stops: tuple[str, ...], *, is_included: bool = False) -> None:
        self._stops = stops
        self._is_included = is_included
        self._held = ""
        self.is_stopped = False

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Take the next piece of text; return what is certainly part of the answer.

        A stop string that is complete within a piece that may not stop does not end the answer.
        """
        if self.is_stopped:
            return ""
        if not self._stops:
            return text
        before, text = len(self._held), self._held + text
        matches = [
            (start + len(stop), start)
            for stop in self._stops
            if (start := text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if matches and may_stop:
            self.is_stopped, self._held = True, ""
            end, start = min(matches)
            return text[: end if self._is_included else start]
        keep = self._held_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return the text held back: nothing follows that could complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _held_length(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that begins a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
