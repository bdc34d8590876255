"""The file ``conversion.json`` in a target directory: names the unfinished job, and locks it for one run.

The lock keeps two runs from writing into one target; a later run of the same job goes on where the last one
ended. The file can be damaged only while nothing else has been written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ernie_backend.errors import StartError

LOCK_FILE = "conversion.json"


class TargetLock:
    """Locks a target as long as the context lasts.

    Args:
        target: the directory; made if it is absent.
        identity: what distinguishes the job from others, as JSON.
    """

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        self._target = target
        self._path = target / LOCK_FILE
        self._identity = identity

    def __enter__(self) -> TargetLock:
        """Lock the target; write the job's identity, or compare it with the one that is there.

        Raises:
            StartError: the target holds something else, or another run holds the lock.
        """
        if not self._path.exists():
            self._check_empty()
            self._target.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8")
        try:
            self._lock()
            self._check_identity()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def remove(self) -> None:
        """Remove the file: the target is complete."""
        self._path.unlink()

    def _check_empty(self) -> None:
        if self._target.exists() and not self._target.is_dir():
            raise StartError(f"{self._target} is a file; give a directory that is empty or absent")
        if (self._target / "config.json").is_file():
            raise StartError(
                f"{self._target} holds a complete model; give another directory, or empty it to make it again"
            )
        if self._target.is_dir() and any(self._target.iterdir()):
            raise StartError(f"{self._target} is not empty; give a directory that is")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another run is writing to {self._target}; wait until it ends, or give another directory"
            ) from None

    def _check_identity(self) -> None:
        self._file.seek(0)
        try:
            stored = json.loads(self._file.read())
        except ValueError:
            self._write()
            return
        if stored != self._identity:
            raise StartError(
                f"{self._target} holds an unfinished run with other settings, source or texts, or of "
                "another version; empty it"
            )

    def _write(self) -> None:
        """Write the identity over what is not JSON, which a run left that ended while it wrote."""
        others = [path.name for path in self._target.iterdir() if path.name != LOCK_FILE]
        if others:
            raise StartError(
                f"{self._path} is damaged, so the origin of {min(others)} is unknown; empty the directory"
            )
        self._file.truncate(0)
        self._file.write(json.dumps(self._identity))
        self._file.flush()
        os.fsync(self._file.fileno())
