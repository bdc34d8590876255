"""Stop strings, matched on text: whatever tokens it came in.

The answer ends where the first stop string is complete; the stop string is not part of it. Text that may be the
beginning of a stop string is held back until it is known. The result depends on the text alone, not on how it
was cut into pieces. This module must not know tokens.
"""

from __future__ import annotations


class StopMatcher:
    """Passes text on until a stop string is complete."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Take the next piece of text; return what is certainly part of the answer."""
        if self.is_stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        matches = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            self.is_stopped, self._held = True, ""
            return text[: min(matches)[1]]
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
