"""The plan of one engine step: what the scheduler hands to the runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.media import MediaSpan


class ScheduledChunk(NamedTuple):
    """Consecutive tokens of one request that this step computes.

    Attributes:
        request_id: whose tokens.
        token_ids: the tokens; drafts of the tokens after the request's last one may be at the end.
        start: position of the first: tokens of the request that are in the KV cache already.
        block_table: cache blocks of the request, enough for all tokens up to the end of the chunk.
        num_sampled: rows, the last ones, after which a token is sampled: 0 if the chunk does not reach the
            request's last token; otherwise one for that token and one for each draft.
        needs_all_logits: whether the logits of all its tokens are needed, not only those of sampled rows.
        media: tokens of the chunk whose embeddings an encoder makes; they start within the chunk.
        positions: int32 ``[A, n]``, places of its n tokens on the A axes of a rotary embedding; None: on one
            axis, from ``start`` on.
        digests: of the media in ``media``, one for each span.
        vision_types: bool ``[n]``, which tokens go to the experts of vision; None: none.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    block_table: tuple[int, ...]
    num_sampled: int
    needs_all_logits: bool = False
    media: tuple[MediaSpan, ...] = ()
    positions: NDArray[np.int32] | None = None
    digests: tuple[bytes, ...] = ()
    vision_types: NDArray[np.bool_] | None = None

    @property
    def num_logit_rows(self) -> int:
        """How many of its last tokens have their logits computed."""
        return len(self.token_ids) if self.needs_all_logits else self.num_sampled

    @property
    def is_text(self) -> bool:
        """Whether it has no media, and its places are on one axis."""
        return not self.media and self.positions is None and self.vision_types is None

    @property
    def draft_ids(self) -> tuple[int, ...]:
        """The drafts among its tokens."""
        return self.token_ids[1 - self.num_sampled :] if self.num_sampled > 1 else ()


@dataclass(frozen=True)
class SchedulePlan:
    """What one step computes, at most one chunk of a request."""

    chunks: tuple[ScheduledChunk, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens the step computes."""
        return sum(len(chunk.token_ids) for chunk in self.chunks)

    @property
    def sampled_places(self) -> NDArray[np.int32]:
        """Places of the sampled rows among all logit rows of the step, int32 ``[S]``."""
        places, end = list[int](), 0
        for chunk in self.chunks:
            end += chunk.num_logit_rows
            places += range(end - chunk.num_sampled, end)
        return np.array(places, np.int32)
