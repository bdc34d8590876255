"""When an answer counts as a loop: vLLM's ``repetition_detection``, with one limit of our own.

{"max_pattern_size": 64, "min_count": 8}      the last 8 patterns of at most 64 tokens are equal
{"max_pattern_size": 0}                       nothing is detected, whatever the model's default is
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ernie_wire.checks import as_integer, check_number
from ernie_wire.errors import InvalidValue

FIELD = "repetition_detection"
STOP_REASON = "repetition_detected"
"""The ``stop_reason`` of an answer that was ended for it, as in vLLM."""
MAX_PATTERN_SIZE = 1024
"""Every token of an answer is compared with this many before it, between two steps of all requests."""
_MAX_TOKENS = 1 << 24


@dataclass(frozen=True)
class RepetitionDetection:
    """An answer is a loop if it ends with one pattern of tokens, repeated without anything in between.

    Attributes:
        max_pattern_size: most tokens of the pattern; 0: nothing is detected.
        min_pattern_size: fewest tokens of the pattern; 0 is 1.
        min_count: fewest times that the pattern occurs, at least 2.
        min_repeated_tokens: fewest tokens that all these patterns have together.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 1
    min_count: int = 0
    min_repeated_tokens: int = 0

    def __post_init__(self) -> None:
        """Check every limit."""
        self._check("max_pattern_size", 0, MAX_PATTERN_SIZE)
        self._check("min_pattern_size", 0, max(1, self.max_pattern_size))
        self._check("min_count", 2 if self.max_pattern_size else 0, _MAX_TOKENS)
        self._check("min_repeated_tokens", 0, _MAX_TOKENS)

    def _check(self, name: str, least: int, most: int) -> None:
        check_number(f"{FIELD}.{name}", getattr(self, name), least, most, integer=True, required=True)

    @classmethod
    def from_json(cls, value: object) -> RepetitionDetection:
        """Return what a JSON object says; null means missing, and integers may be whole floats.

        Raises:
            InvalidValue: naming the field, the value and the limit.
        """
        if not isinstance(value, Mapping):
            raise InvalidValue(f"{FIELD} is {repr(value)[:80]}; it must be a JSON object", FIELD)
        known = [each.name for each in fields(cls)]
        for name in value:
            if name not in known:
                message = f"{FIELD} has no field {repr(name)[:80]}; known: {', '.join(known)}"
                raise InvalidValue(message, FIELD)
        sizes: dict[str, Any] = {name: as_integer(each) for name, each in value.items() if each is not None}
        return cls(**sizes)

    def to_json(self) -> dict[str, int]:
        """Return the object for ``from_json``."""
        return asdict(self)


def check_repetition_detection(value: object) -> None:
    """Check the object as ``RepetitionDetection.from_json`` does; None is valid."""
    if value is not None:
        RepetitionDetection.from_json(value)
