"""One request as the scheduler, the runner and the sampler see it: its tokens and how far they are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ernie_backend.request.sampling import LogitsProcessor, ResolvedSampling


@dataclass(eq=False)
class Sequence:
    """The tokens of a request from its admission to its end.

    Attributes:
        request_id: unique among the requests in the engine.
        prompt_ids: the prompt.
        sampling: how tokens are chosen and when to stop.
        processors: what changes its logits before a token is chosen, in this order.
        token_ids: prompt and answer.
        num_computed_tokens: how many of them are in the KV cache.
        priority: the lower, the sooner; equal ones in order of arrival.
        cache_salt: only requests with the same one share KV blocks.
        arrival: order of arrival, given by the engine.
        num_cached_tokens: of the prompt, found in the prefix cache; None until the scheduler has looked.
        num_scored_tokens: of the prompt, whose log probabilities are known if they are asked for; the first has
            none.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: ResolvedSampling
    processors: tuple[LogitsProcessor, ...] = ()
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    priority: int = 0
    cache_salt: str = ""
    arrival: int = 0
    num_cached_tokens: int | None = None
    num_scored_tokens: int = 1

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
        return self.num_computed_tokens == len(self.token_ids) - 1 and self.num_generated > 0

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether logits of its prompt are still wanted: then the prefix cache may not spare any of it."""
        return self.sampling.prompt_logprobs is not None and self.num_scored_tokens < len(self.prompt_ids)

    def append(self, token_id: int) -> None:
        """Add the next token of the answer."""
        self.token_ids.append(token_id)
        for processor in self.processors:
            processor.accept(token_id)
