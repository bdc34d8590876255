"""Writes one ``.safetensors`` file tensor by tensor, so that nothing has to be known or held beforehand.

The header comes first in the file but is known last: room is kept for it, and what it does not need is filled
with spaces, as the format allows. The file has its name only when it is complete. This module must not know
what the tensors mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ernie_backend.errors import StartError

_TYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
_ENTRY_BYTES = 160
"""What an entry of the header needs beside the tensor's name: type, shape, offsets."""


class TensorFile:
    """A file that is being written; leave the context to complete it, or by an error to remove it.

    Args:
        path: the file's final name.
        names: the tensors that will be added.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        self._unfinished = path.with_suffix(".unfinished")
        self._room = 64 + sum(len(name.encode()) + _ENTRY_BYTES for name in names)
        self._room += -self._room % 8
        self._entries: dict[str, object] = {"__metadata__": {"format": "np"}}
        self._end = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._unfinished.open("wb")
        self._file.seek(8 + self._room)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._complete()
        else:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)

    def add(self, name: str, tensor: NDArray[np.generic]) -> None:
        """Write a tensor: float32, float16, int8, or bfloat16 as uint16 bits.

        Raises:
            StartError: the disk is full, or cannot be written.
        """
        begin, self._end = self._end, self._end + tensor.nbytes
        self._entries[name] = {
            "dtype": _TYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, self._end],
        }
        try:
            self._file.write(np.ascontiguousarray(tensor).data)
        except OSError as error:
            raise StartError(f"{self._unfinished} cannot be written: {error.strerror}") from error

    def _complete(self) -> None:
        header = json.dumps(self._entries).encode()
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.replace(self._path)
