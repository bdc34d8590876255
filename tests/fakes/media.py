"""Media for tests of the engine, without pixels of a real picture."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from ernie_backend.request.media import MediaItem, MediaSpan
from ernie_backend.request.sequence import Sequence

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


def put_media(sequence: Sequence, starts: tuple[int, ...], items: tuple[MediaItem, ...]) -> Sequence:
    """Let media begin at these tokens of a sequence; their tokens go to the experts of vision."""
    sequence.media_items = items
    sequence.media = tuple(
        MediaSpan(index, start, item.num_tokens)
        for index, (start, item) in enumerate(zip(starts, items, strict=True))
    )
    sequence.vision_types = np.zeros(len(sequence.prompt_ids), np.bool_)
    for span in sequence.media:
        sequence.vision_types[span.start : span.start + span.length] = True
    return sequence
