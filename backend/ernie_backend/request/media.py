"""The media of a request as they come, as their encoder takes them, and their places among its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RAISE_CONTEXT = "or have the server started with a larger --max-model-len"
"""The way out for media that exceed the context."""


class Medium(NamedTuple):
    """A file to prepare.

    Attributes:
        data: the file.
        kind: ``image`` or ``video``.
        options: of the request and its part.
        where: the part, ``messages[2].content[0]``, for errors.
    """

    data: bytes
    kind: str
    options: Mapping[str, Any]
    where: str


@dataclass(frozen=True, eq=False)
class MediaItem:
    """An image or a video as its encoder takes it, h and w patches high and wide, of P x P pixels each.

    Attributes:
        kind: ``image`` or ``video``.
        patches: uint8 ``[t * h * w, 3 * P * P]``, channel by channel inside a patch; their order is that of the
            model's encoder.
        grid: t frames (1 of an image, an even number of a video), h, w.
        num_tokens: tokens that represent it.
        digest: 32 bytes, BLAKE2b over patches, grid and kind: what has the same one has the same embeddings.
    """

    kind: str
    patches: NDArray[np.uint8]
    grid: tuple[int, int, int]
    num_tokens: int
    digest: bytes


@dataclass(frozen=True)
class MediaSpan:
    """Consecutive tokens that represent a piece of media: their embeddings come from an encoder, not a table.

    Attributes:
        index: of the piece among those of the request.
        start: place of the first of the tokens, in the request or in a chunk of it.
        length: number of tokens.
        first_row: row of the encoder's output that belongs to the first token.
    """

    index: int
    start: int
    length: int
    first_row: int = 0

    @property
    def end(self) -> int:
        """Place after the last of the tokens."""
        return self.start + self.length


def cut_spans(spans: Iterable[MediaSpan], begin: int, end: int) -> tuple[MediaSpan, ...]:
    """Return the parts of spans that are among the tokens ``begin`` to ``end``, counted from there."""
    parts = []
    for span in spans:
        first, last = max(span.start, begin), min(span.end, end)
        if first < last:
            row = span.first_row + first - span.start
            parts.append(MediaSpan(span.index, first - begin, last - first, row))
    return tuple(parts)
