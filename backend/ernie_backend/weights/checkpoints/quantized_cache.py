"""Quantized weights on disk, so that a model is quantized once and every later start reads the result.

    <cache>/<model name>-<hash of its path>/<fingerprint>/[<rank>/]<role>.<layer>.<expert>.<format>

One file for each weight: a page with shape and checksum in JSON, the codes, the scales. A file is written under
another name and renamed, so two servers may fill one cache at once and a killed one leaves no partial file. A
damaged file is made again. The fingerprint covers the format version, config.json and, for each file of
the checkpoint, its size, its times and a sample of its content: other weights have another directory, and those
of older ones are removed. One of the times, the inode's last change, only the kernel can set: a program that
writes into a file and puts its modification time back has changed it too.

The numbers are those of ``ernie_kernels.formats``, before any backend packs them: one cache serves all
instruction sets and devices. Files are mapped: what is packed at once is never copied before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ernie_backend.weights.precision import WeightFormat
from ernie_backend.weights.roles import WeightKey
from ernie_kernels.formats import (
    WEIGHT_GROUP,
    GroupedInt4Weight,
    Int4Weight,
    Int8Weight,
    QuantizedWeight,
)

FORMAT_VERSION = 4
MIN_BYTES = 1 << 20
"""A smaller weight is quantized faster than a file is opened."""
_LEFTOVER_AGE_S = 3600.0
_FORMATS = {
    Int8Weight: WeightFormat.INT8,
    Int4Weight: WeightFormat.INT4,
    GroupedInt4Weight: WeightFormat.GROUPED_INT4,
}
_PAGE = 4096
_SAMPLES = 64
_SAMPLE_BYTES = 4096
logger = logging.getLogger(__name__)


class QuantizedCache:
    """The cached weights of one checkpoint.

    Args:
        root: directory of all caches; made if it is absent.
        model: the checkpoint's directory.
        files: its files, see ``fingerprint``.
        part: name of the rank's part of each weight; default: the whole.
    """

    def __init__(self, root: Path, model: Path, files: Iterable[Path], part: str = "") -> None:
        path_hash = hashlib.sha256(str(model.resolve()).encode()).hexdigest()[:12]
        parent = root / f"{model.resolve().name}-{path_hash}"
        current = parent / fingerprint(files)
        self._directory = current / part
        self._is_writable = True
        _remove_older(parent, current)
        _remove_leftovers(self._directory)

    def get(self, key: WeightKey, fmt: WeightFormat, shape: tuple[int, int]) -> QuantizedWeight | None:
        """Return a cached ``[N, K]`` int8 or int4 weight; None if it is absent or damaged."""
        path = self._path(key, fmt)
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            codes, scales = _read(content, *_stored_shapes(fmt, shape))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged and made again: %s", path, error)
            return None
        if fmt is WeightFormat.INT8:
            return Int8Weight(codes.view(np.int8), scales)
        return (Int4Weight if fmt is WeightFormat.INT4 else GroupedInt4Weight)(codes, scales, shape[1])

    def put(self, key: WeightKey, weight: QuantizedWeight) -> None:
        """Write a weight; a full or read-only disk disables the cache, and the start goes on."""
        codes = weight.codes if isinstance(weight, Int8Weight) else weight.packed
        if codes.nbytes < MIN_BYTES or not self._is_writable:
            return
        path = self._path(key, _FORMATS[type(weight)])
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._directory, suffix=".tmp", delete=False) as file:
                try:
                    _write(file, codes, weight.scales)
                    Path(file.name).replace(path)
                except OSError:
                    Path(file.name).unlink()
                    raise
        except OSError as error:
            logger.warning("quantized weights are not cached in %s: %s", self._directory, error)
            self._is_writable = False

    def _path(self, key: WeightKey, fmt: WeightFormat) -> Path:
        return self._directory / f"{key.role.name.lower()}.{key.layer}.{key.expert}.{fmt.value}"


def _remove_older(parent: Path, current: Path) -> None:
    """Remove the weights of older checkpoints."""
    for entry in parent.glob("*"):
        if entry != current:
            shutil.rmtree(entry, ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    """Remove what a killed server left."""
    for leftover in directory.glob("*.tmp"):
        if leftover.stat().st_mtime < time.time() - _LEFTOVER_AGE_S:
            leftover.unlink(missing_ok=True)


def fingerprint(files: Iterable[Path]) -> str:
    """Return what identifies the content of a checkpoint's files, without reading all of it."""
    digest = hashlib.sha256(f"format {FORMAT_VERSION}".encode())
    for path in sorted(files):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(stat.st_size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def _stored_shapes(fmt: WeightFormat, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Return the shapes of codes and scales."""
    outputs, inputs = shape
    if fmt is WeightFormat.INT8:
        return shape, (outputs,)
    groups = (-(-inputs // WEIGHT_GROUP),) if fmt is WeightFormat.GROUPED_INT4 else ()
    return (outputs, (inputs + 1) // 2), (outputs, *groups)


def _write(file: IO[bytes], codes: NDArray[np.generic], scales: NDArray[np.float32]) -> None:
    header = {"shape": codes.shape, "checksum": _checksum(scales, codes)}
    file.write(json.dumps(header).encode().ljust(_PAGE))
    file.write(codes.data)
    file.write(scales.data)
    file.flush()


def _read(
    content: mmap.mmap, shape: tuple[int, int], scales_shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the codes where they are mapped, so that they take no memory of this process, and the scales."""
    content.madvise(mmap.MADV_WILLNEED)
    header = json.loads(content.read(_PAGE))
    count, middle = math.prod(scales_shape), _PAGE + math.prod(shape)
    if tuple(header["shape"]) != shape or len(content) != middle + 4 * count:
        raise ValueError(f"{len(content)} bytes of shape {header['shape']}, expected shape {list(shape)}")
    codes = np.frombuffer(content, np.uint8, math.prod(shape), offset=_PAGE).reshape(shape)
    scales = np.frombuffer(content, np.float32, count, offset=middle).reshape(scales_shape).copy()  # aligned
    if _checksum(scales, codes) != header["checksum"]:
        raise ValueError("its checksum is wrong")
    return codes, scales


def _checksum(scales: NDArray[np.float32], codes: NDArray[np.generic]) -> int:
    """Return the CRC of the sums of 64-bit words over each page and over each place in a page.

    That of all bytes takes three times as long. Each word is in two sums: a sector or page that is lost or
    elsewhere changes one kind, changes that a sum does not show the other.
    """
    content = codes.reshape(-1).view(np.uint8)
    end = len(content) // _PAGE * _PAGE
    words = content[:end].view(np.uint64).reshape(-1, _PAGE // 8)
    sums = np.concatenate((words.sum(axis=1), words.sum(axis=0)))
    return zlib.crc32(scales.data, zlib.crc32(content[end:].data, zlib.crc32(sums.data)))
