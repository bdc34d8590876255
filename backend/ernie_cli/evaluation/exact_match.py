"""When an answer is exact: after both sides are normalised, it equals one of those that count as right.

This module must not know where questions and answers come from.
"""

from __future__ import annotations

from collections.abc import Iterable

_FULL_WIDTH = range(0xFF01, 0xFF5F)
_TO_HALF_WIDTH = {code: code - 0xFF01 + 0x21 for code in _FULL_WIDTH}
_END = ".!?。… "


def normalised(text: str) -> str:
    """Return a text as it is compared: without case, wide forms, spaces beyond one, and marks at its end."""
    one_line = " ".join(text.translate(_TO_HALF_WIDTH).split())
    return one_line.casefold().rstrip(_END)


def is_exact(answer: str, expected: Iterable[str]) -> bool:
    """Tell whether an answer equals one of the expected ones, both normalised."""
    return normalised(answer) in {normalised(each) for each in expected}
