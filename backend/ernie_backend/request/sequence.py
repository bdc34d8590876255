"""One request as the scheduler, the runner and the sampler see it: its tokens and how far they are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.media import MediaItem, MediaSpan, cut_spans
from ernie_backend.request.sampling import LogitsProcessor, ResolvedSampling, TokenMask
from ernie_backend.request.step_plan import ScheduledChunk


@dataclass(eq=False)
class Sequence:
    """The tokens of a request from its admission to its end.

    Attributes:
        request_id: unique among the requests in the engine.
        prompt_ids: the prompt.
        sampling: how tokens are chosen and when to stop.
        processors: change its logits before a token is chosen, in this order.
        token_mask: excludes tokens after that, and ends the answer when it is complete; None: it has none.
        media: tokens of the prompt whose embeddings an encoder makes, in order; ``index`` is that in
            ``media_items``.
        media_items: what the encoder makes them of.
        vision_types: bool ``[P]``, which of the prompt's tokens go to the experts of vision; None: none.
        prompt_positions: int32 ``[A, P]``, places of the prompt's tokens on the A axes of a rotary embedding;
            those of the answer go on from the largest. None: on one axis, from 0 on.
        token_ids: prompt and answer.
        num_computed_tokens: tokens whose keys and values the model has computed.
        priority: the lower, the sooner; equal ones in order of arrival.
        cache_salt: only requests with the same one share KV blocks.
        arrival: order of arrival, given by the engine.
        num_cached_tokens: tokens found in the prefix cache on admission; None before.
        num_scored_tokens: tokens of the prompt with log probabilities, if the request needs them; the first has
            none, and counts.
        mask_seconds: processor time that filling its token mask has taken.
        draft_ids: guesses of the tokens that follow, which the next step checks; those that are right cost no
            step of their own.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: ResolvedSampling
    processors: tuple[LogitsProcessor, ...] = ()
    token_mask: TokenMask | None = None
    media: tuple[MediaSpan, ...] = ()
    media_items: tuple[MediaItem, ...] = ()
    vision_types: NDArray[np.bool_] | None = None
    prompt_positions: NDArray[np.int32] | None = None
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    priority: int = 0
    cache_salt: str = ""
    arrival: int = 0
    num_cached_tokens: int | None = None
    num_scored_tokens: int = 1
    mask_seconds: float = 0.0
    draft_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Begin with the prompt."""
        self.token_ids = list(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def max_total_tokens(self) -> int:
        """Tokens that prompt and answer take at most."""
        return len(self.prompt_ids) + self.sampling.max_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether all tokens but the newest are in the KV cache."""
        return self.num_computed_tokens == len(self.token_ids) - 1 >= len(self.prompt_ids)

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether logits of its prompt are still needed: then none of it may come from the prefix cache."""
        return self.sampling.prompt_logprobs is not None and self.num_scored_tokens < len(self.prompt_ids)

    def chunk(self, end: int, block_table: tuple[int, ...]) -> ScheduledChunk:
        """Return what is to be computed up to token ``end``; beyond the known tokens are drafts."""
        start, num_drafts = self.num_computed_tokens, end - len(self.token_ids)
        tokens = self.token_ids[start:end]
        if num_drafts > 0:
            tokens += self.draft_ids[:num_drafts]
        num_sampled, needs_all_logits = max(0, num_drafts + 1), self.needs_prompt_logits
        chunk = ScheduledChunk(
            self.request_id, tuple(tokens), start, block_table, num_sampled, needs_all_logits
        )
        places, types = self.prompt_positions, self.vision_types
        if not self.media and places is None and types is None:
            return chunk
        spans = cut_spans(self.media, start, end)
        return chunk._replace(
            media=spans,
            positions=None if places is None else _places(places, start, end),
            digests=tuple(self.media_items[span.index].digest for span in spans),
            vision_types=None if types is None else _vision_types(types, start, end),
        )

    def append(self, token_id: int) -> None:
        """Add the next token of the answer."""
        self.token_ids.append(token_id)
        for processor in self.processors:
            processor.accept(token_id)
        if self.token_mask is not None:
            self.token_mask.accept(token_id)


def _vision_types(of_prompt: NDArray[np.bool_], start: int, end: int) -> NDArray[np.bool_] | None:
    """Return which of the tokens go to the experts of vision; None: none. Those of the answer do not."""
    chosen = of_prompt[start:end]
    if not chosen.any():
        return None
    types = np.zeros(end - start, np.bool_)
    types[: len(chosen)] = chosen
    return types


def _places(of_prompt: NDArray[np.int32], begin: int, end: int) -> NDArray[np.int32]:
    """Return the places ``[A, end - begin]`` of tokens; the answer's go on after the prompt's largest."""
    num_axes, num_prompt = of_prompt.shape
    answer = np.arange(max(begin, num_prompt), end) - num_prompt + of_prompt.max() + 1
    parts = (of_prompt[:, begin:end], np.tile(answer, (num_axes, 1)))
    places: NDArray[np.int32] = np.concatenate(parts, axis=1).astype(np.int32)
    return places
