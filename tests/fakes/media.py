"""Media for tests of the engine, without pixels of a real picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from ernie_backend.request.media import MediaItem, MediaSpan
from ernie_backend.request.sequence import Sequence as Request

PATCH_VALUES = 3 * 2 * 2
MERGED = 4
"""Patches of an image that become one token."""
PLACEHOLDER = 9


def make_item(seed: int, num_tokens: int) -> MediaItem:
    """Return an image of random patches; equal arguments make equal images."""
    patches = np.random.default_rng(seed).integers(0, 256, (MERGED * num_tokens, PATCH_VALUES), np.uint8)
    grid = (1, 2, 2 * num_tokens)
    digest = blake2b(patches.tobytes() + repr(grid).encode(), digest_size=32).digest()
    return MediaItem("image", patches, grid, num_tokens, digest)


def embedded(item: MediaItem) -> list[int]:
    """Return what ``HashEncoder`` makes of an item: a number for each of its tokens."""
    return [zlib.crc32(item.digest, row) % 1000 + 1000 for row in range(item.num_tokens)]


class HashEncoder:
    """An encoder for ``TokenHashRunner``: one token of an item is one piece of work.

    Attributes:
        outputs: those that are kept, by digest.
        num_pieces: done so far.
        encoded: the digests of finished items, in order.
        unreadable: digests of items that fail at their last piece.
    """

    def __init__(self, unreadable: Iterable[bytes] = ()) -> None:
        self.outputs: dict[bytes, list[int]] = {}
        self.num_pieces = 0
        self.encoded: list[bytes] = []
        self.unreadable = frozenset(unreadable)
        self._current: tuple[bytes, list[int]] | None = None
        self._num_done = 0

    @property
    def current(self) -> bytes | None:
        """The digest of the item that is being encoded."""
        return None if self._current is None else self._current[0]

    def start(self, item: MediaItem) -> None:
        """See ``MediaEncoder``."""
        assert self._current is None
        assert item.digest not in self.outputs
        self._current, self._num_done = (item.digest, embedded(item)), 0

    def advance(self) -> bool:
        """See ``MediaEncoder``."""
        assert self._current is not None
        digest, output = self._current
        self.num_pieces += 1
        self._num_done += 1
        if self._num_done < len(output):
            return False
        if digest in self.unreadable:
            raise ValueError("unreadable")
        self.outputs[digest] = output
        self.encoded.append(digest)
        self._current = None
        return True

    def drop(self, digests: Iterable[bytes]) -> None:
        """See ``MediaEncoder``."""
        for digest in digests:
            if self.current == digest:
                self._current = None
            else:
                del self.outputs[digest]


def put_media(sequence: Request, starts: Sequence[int], items: Sequence[MediaItem]) -> Request:
    """Let media begin at these tokens of a sequence; their tokens go to the experts of vision."""
    sequence.media_items = tuple(items)
    sequence.media = tuple(
        MediaSpan(index, start, item.num_tokens)
        for index, (start, item) in enumerate(zip(starts, items, strict=True))
    )
    sequence.vision_types = np.zeros(len(sequence.prompt_ids), np.bool_)
    for span in sequence.media:
        sequence.vision_types[span.start : span.start + span.length] = True
    return sequence
