"""The instructions of a Dockerfile, as far as this project's use them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction: its name in capitals, and the rest with continued lines joined."""

    name: str
    rest: str


def read_dockerfile(path: Path) -> list[Instruction]:
    """Return the instructions of a Dockerfile, without comments."""
    lines = [
        line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]
