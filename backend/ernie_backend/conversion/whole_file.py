"""A file that is there when all of it is, or not at all.

This module must not know what is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".unfinished"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name at the end; an error or an interrupt leaves nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(SUFFIX)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
