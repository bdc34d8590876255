"""How a program that has an engine answers the comparison: a JSON object per line in, one per line out.

It runs in the Python of every peer, so it needs the standard library only. First the program writes what its
engine is; then each ``{"kind": "decode", "size": 16, "steps": 32}`` is answered by ``{"value": 410.3}``.
Whatever the engine prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Case = Callable[[int, int], float]
"""Takes the size (sequences of a batch, tokens of a prompt) and the steps; returns tokens a second."""


class CaseLoop:
    """Standard output, kept for answers only."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def _answer(self, values: Mapping[str, Any]) -> None:
        print(json.dumps(values), file=self._answers, flush=True)

    def run(self, facts: Mapping[str, Any], cases: Mapping[str, Case]) -> None:
        """Say that the engine is ready, then answer each line of standard input until it ends."""
        self._answer(facts)
        for line in sys.stdin:
            asked = json.loads(line)
            self._answer({"value": cases[asked["kind"]](asked["size"], asked["steps"])})
