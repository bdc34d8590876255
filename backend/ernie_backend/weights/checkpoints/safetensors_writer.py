"""Writes one ``.safetensors`` file tensor by tensor, so that only one has to be in memory.

The header comes first in the file but is known last: room is reserved for it and padded with spaces, as the
format allows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

UNFINISHED = ".unfinished"
"""The suffix of a file that is not complete."""
_TYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
_ENTRY_BYTES = 160
"""What an entry of the header needs besides the tensor's name: type, shape, offsets."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that is renamed to ``path`` at the end; an error leaves nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def tensor_file(path: Path, names: Iterable[str]) -> Iterator[TensorFile]:
    """Open the file ``path`` for the tensors ``names``; it appears when all are written."""
    with atomic_file(path) as file:
        tensors = TensorFile(file, names)
        yield tensors
        tensors.finish()


class TensorFile:
    """A file that is being written.

    Args:
        file: opened, and empty.
        names: the tensors that will be added.
    """

    def __init__(self, file: BinaryIO, names: Iterable[str]) -> None:
        self._file = file
        self._room = 64 + sum(len(name.encode()) + _ENTRY_BYTES for name in names)
        self._room += -self._room % 8
        self._entries: dict[str, object] = {"__metadata__": {"format": "np"}}
        self._end = 0
        self._file.seek(8 + self._room)

    def add(self, name: str, tensor: NDArray[np.generic]) -> None:
        """Write a tensor: float32, float16, int8, or bfloat16 as uint16 bits."""
        begin, self._end = self._end, self._end + tensor.nbytes
        self._entries[name] = {
            "dtype": _TYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, self._end],
        }
        self._file.write(np.ascontiguousarray(tensor).data)

    def finish(self) -> None:
        """Write the header."""
        header = json.dumps(self._entries).encode()
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
