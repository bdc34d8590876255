"""Reads one ``.safetensors`` file: 8 bytes of header length, a JSON header, then the tensors' bytes.

The file is mapped, so a tensor costs memory only while it is being read. bfloat16, which NumPy has no type
for, comes back as uint16 bits. Everything in the header is checked against the file before a tensor is read.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ernie_backend.errors import StartError

_DTYPES: Mapping[str, DTypeLike] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8}
_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor is: its type as the file spells it, its shape, and its bytes within the data part."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open, mapped file.

    Attributes:
        path: the file.
        entries: tensor name -> where it is.
    """

    def __init__(self, path: Path) -> None:
        """Map ``path`` and check its header.

        Raises:
            StartError: the file cannot be read, is truncated, or its header is wrong.
        """
        self.path = path
        self._bytes = _map(path)
        try:
            self._data_start, self.entries = _read_header(path, self._bytes)
        except StartError:
            self.close()
            raise

    def close(self) -> None:
        """Drop the map; arrays in use keep it alive."""
        del self._bytes

    def forget(self) -> None:
        """Release the pages that were read; they are read from the file again when they are used."""
        self._bytes.madvise(mmap.MADV_DONTNEED)

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return a read-only view of a tensor: float32, float16, int8, or uint16 for bfloat16 bits.

        Raises:
            StartError: the tensor has a type that no weight has.
        """
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            raise StartError(
                f"{self.path}: tensor {name} has type {entry.dtype}; weights are read from {', '.join(_DTYPES)}"
            )
        start = self._data_start + entry.begin
        count = math.prod(entry.shape)
        return np.frombuffer(self._bytes, _DTYPES[entry.dtype], count, start).reshape(entry.shape)


def type_name(dtype: np.dtype[np.generic]) -> str:
    """Return how a file spells the type of an array that ``tensor`` returned."""
    return next(name for name, known in _DTYPES.items() if dtype == known)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise StartError(f"{path} is empty; copy the checkpoint again") from error
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from error


def _read_header(path: Path, data: mmap.mmap) -> tuple[int, dict[str, TensorEntry]]:
    if len(data) < _HEADER_LENGTH_BYTES:
        raise StartError(f"{path} has {len(data)} bytes, too few for a safetensors file; copy it again")
    (length,) = struct.unpack("<Q", data[:_HEADER_LENGTH_BYTES])
    if length > _MAX_HEADER_BYTES:
        raise StartError(f"{path} is not a safetensors file: its header would have {length} bytes")
    data_start = _HEADER_LENGTH_BYTES + length
    if data_start > len(data):
        raise StartError(
            f"{path} is truncated: its header ends at byte {data_start}, "
            f"the file has {len(data)}; copy it again"
        )
    try:
        header = json.loads(data[_HEADER_LENGTH_BYTES:data_start])
        entries = {name: _entry(fields) for name, fields in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StartError(f"{path} is not a safetensors file: its header is malformed ({error!r})") from error
    _check_extents(path, entries, len(data) - data_start)
    return data_start, entries


def _entry(fields: Mapping[str, Any]) -> TensorEntry:
    shape, offsets = tuple(fields["shape"]), tuple(fields["data_offsets"])
    if not all(type(number) is int and number >= 0 for number in shape + offsets) or len(offsets) != 2:
        raise ValueError(f"shape {shape}, data_offsets {offsets}")
    return TensorEntry(str(fields["dtype"]), shape, offsets[0], offsets[1])


def _check_extents(path: Path, entries: Mapping[str, TensorEntry], size: int) -> None:
    """Check that every tensor fits its shape and the file, and that no two overlap."""
    previous_end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise StartError(
                f"{path} is truncated: tensor {name} ends at byte {entry.end} of the data, "
                f"the file has {size}; copy it again"
            )
        if entry.begin < previous_end or entry.end < entry.begin:
            raise StartError(
                f"{path}: tensor {name} at bytes {entry.begin} to {entry.end} overlaps another one"
            )
        if entry.dtype in _DTYPES:
            expected = math.prod(entry.shape) * np.dtype(_DTYPES[entry.dtype]).itemsize
            if entry.end - entry.begin != expected:
                raise StartError(
                    f"{path}: tensor {name} has {entry.end - entry.begin} bytes; "
                    f"{entry.dtype} {list(entry.shape)} needs {expected}"
                )
        previous_end = entry.end
