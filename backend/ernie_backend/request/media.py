"""The places of media among the tokens of a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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


def cut_spans(spans: Iterable[MediaSpan], begin: int, end: int) -> tuple[MediaSpan, ...]:
    """Return the parts of spans that are among the tokens ``begin`` to ``end``, counted from there."""
    parts = []
    for span in spans:
        first, last = max(span.start, begin), min(span.start + span.length, end)
        if first < last:
            row = span.first_row + first - span.start
            parts.append(MediaSpan(span.index, first - begin, last - first, row))
    return tuple(parts)
