"""Encodes media with the model's vision tower, a bounded piece of work at a time, and keeps the outputs.

It decides nothing: what is encoded next, and which outputs are dropped, is the policy of
``scheduler.encoder_schedule``. Every rank has the whole tower and does the same.

A frame attends only to itself, and a video's frames are joined in pairs. So a video is encoded in parts of a
few frames, and the memory for activations is that of the largest part, however long the video is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_backend.models.base import VisionTower
from ernie_backend.request.media import MediaItem
from ernie_backend.request.step_plan import SchedulePlan
from ernie_kernels.api import Array, Ops

PART_PATCHES = 2048
"""A part of a video has as many pairs of frames as have no more patches than this, at least one pair."""
_PAIR = 2


@dataclass(frozen=True)
class MediaRows:
    """Rows ``begin`` to ``end`` - 1 of the embeddings of the medium with this digest."""

    digest: bytes
    begin: int
    end: int


def media_rows_of(plan: SchedulePlan) -> tuple[MediaRows, ...]:
    """Return whose embeddings the media tokens of a plan have, in the order of ``Batch.media_rows``."""
    return tuple(
        MediaRows(digest, span.first_row, span.first_row + span.length)
        for chunk in plan.chunks
        for span, digest in zip(chunk.media, chunk.digests, strict=True)
    )


class Normalization:
    """Brings the values of each channel to the numbers that a tower was trained on: (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Make the table ``[channels, 256]``."""
        values = (np.arange(256, dtype=np.float64) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]
        self._table = values.astype(np.float32)

    def normalized(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 patches of the same shape ``[N, channels * P * P]``."""
        by_channel = patches.reshape(len(patches), len(self._table), -1)
        result = np.empty(by_channel.shape, np.float32)
        for channel, row in enumerate(self._table):
            result[:, channel] = row[by_channel[:, channel]]
        return result.reshape(patches.shape)


class Encoder:
    """A vision tower, what it is encoding, and the embeddings that it has made, by digest."""

    def __init__(self, tower: VisionTower, ops: Ops, normalization: Normalization) -> None:
        self._tower = tower
        self._ops = ops
        self._normalization = normalization
        self._outputs: dict[bytes, Array] = {}
        self._current: tuple[bytes, Generator[None, None, Array]] | None = None

    def start(self, item: MediaItem) -> None:
        """Begin with a medium, in place of an unfinished one; ``advance`` does the work."""
        self._current = item.digest, self._encode(item)

    def advance(self) -> bool:
        """Do one piece of the work; return whether that was the last one."""
        if self._current is None:
            raise ValueError("no medium is being encoded")
        digest, pieces = self._current
        self._current = None  # also after a fault
        try:
            next(pieces)
        except StopIteration as end:
            self._outputs[digest] = end.value
            return True
        self._current = digest, pieces
        return False

    def drop(self, digests: Iterable[bytes]) -> None:
        """Forget embeddings, and the work on those that are not finished."""
        for digest in digests:
            self._outputs.pop(digest, None)
            if self._current is not None and self._current[0] == digest:
                self._current = None

    def rows(self, sources: Sequence[MediaRows]) -> Array:
        """Return rows of embeddings, one source after another: ``[M, H]``."""
        parts = [self._ops.rows(self._outputs[each.digest], each.begin, each.end) for each in sources]
        return parts[0] if len(parts) == 1 else self._ops.concatenate(parts)

    def _encode(self, item: MediaItem) -> Generator[None, None, Array]:
        parts = []
        for patches, grid in _parts(item):
            pixels = self._ops.upload_rows(self._normalization.normalized(patches))
            yield
            parts.append((yield from self._tower.encode(pixels, grid)))
        return parts[0] if len(parts) == 1 else self._ops.concatenate(parts)


def _parts(item: MediaItem) -> Iterator[tuple[NDArray[np.uint8], tuple[int, int, int]]]:
    """Yield the patches and the grid of each part: all of an image, some pairs of frames of a video."""
    frames, height, width = item.grid
    size = height * width
    most = _PAIR * max(1, PART_PATCHES // (_PAIR * size))
    for begin in range(0, frames, most):
        end = min(frames, begin + most)
        yield item.patches[begin * size : end * size], (end - begin, height, width)
