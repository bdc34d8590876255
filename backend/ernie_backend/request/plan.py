"""The plan of one engine step: all that passes from the scheduler to the runner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduledChunk:
    """Consecutive tokens of one request that this step computes.

    Attributes:
        request_id: whose tokens.
        token_ids: the tokens.
        start: position of the first of them: so many tokens of the request are in the KV cache already.
        block_table: cache blocks of the request, enough for all tokens up to the end of the chunk.
        is_sampled: whether the chunk reaches the request's last token, so that a new one is sampled.
        wants_all_logits: whether the logits of all its tokens are wanted, not only of a sampled last one.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    block_table: tuple[int, ...]
    is_sampled: bool
    wants_all_logits: bool = False

    @property
    def num_logit_rows(self) -> int:
        """How many of its last tokens have their logits computed."""
        return len(self.token_ids) if self.wants_all_logits else int(self.is_sampled)


@dataclass(frozen=True)
class SchedulePlan:
    """What one step computes, at most one chunk of a request."""

    chunks: tuple[ScheduledChunk, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens the step computes."""
        return sum(len(chunk.token_ids) for chunk in self.chunks)
