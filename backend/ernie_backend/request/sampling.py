"""How the tokens of one request are chosen, and when its answer ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.sampling import SamplingFilters
from ernie_wire.repetition import RepetitionDetection

GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class ResolvedSampling:
    """Sampling parameters with the model's defaults filled in.

    Attributes:
        filters: temperature and the filters after it.
        seed: the request's, or a random one.
        max_tokens: most tokens to generate; prompt and answer fit the context. 0: the prompt is computed only
            if its log probabilities are requested.
        eos_token_ids: tokens that end the answer; empty with ``ignore_eos``.
        stop_token_ids: the request's own.
        includes_stop: the token that ends the answer is part of its text, unless it is skipped there.
        min_tokens: tokens within which stop strings do not count; a logits processor excludes the tokens that
            would end the answer.
        response_max_tokens: most tokens after thinking; None: no limit of their own.
        repetition: says which loop ends the answer; None: none does.
        logprobs, prompt_logprobs: how many of the most likely tokens to return; None: no log probabilities.
    """

    filters: SamplingFilters
    seed: int
    max_tokens: int
    eos_token_ids: frozenset[int]
    stop_token_ids: frozenset[int] = frozenset()
    includes_stop: bool = False
    min_tokens: int = 0
    response_max_tokens: int | None = None
    repetition: RepetitionDetection | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    @cached_property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        filters = self.filters
        return filters.temperature < GREEDY_BELOW or filters.top_p < GREEDY_BELOW or filters.top_k == 1


class LogitsProcessor(Protocol):
    """Changes the logits of one request's next token, by the tokens that its answer has so far."""

    def apply(self, logits: NDArray[np.float32], /) -> None:
        """Change the logits ``[V]`` of the next token in place; -infinity keeps a token from being chosen."""
        ...

    def accept(self, token_id: int, /) -> None:
        """Take note of the next token of the answer."""
        ...

    def rollback(self, num_tokens: int, /) -> None:
        """Forget the last accepted tokens, as if they had never been accepted."""
        ...


class TokenMask(Protocol):
    """Says which tokens may come next in one request's answer, before their logits are known.

    ``accept`` and ``rollback`` keep its state like a ``LogitsProcessor``'s. One thread uses it at a time.
    """

    def fill(self, mask: NDArray[np.uint32], /) -> None:
        """Set all of a row ``[ceil(V / 32)]``, V being the tokenizer's tokens: bit t is 1 if token t may come.

        Bit t is bit t % 32 of item t // 32, counted from the lowest.
        """
        ...

    def accept(self, token_id: int, /) -> None:
        """Take note of the next token of the answer, one that ``fill`` allowed."""
        ...

    def rollback(self, num_tokens: int, /) -> None:
        """Forget the last accepted tokens, as if they had never been accepted."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow: the answer ends here, and no mask is filled any more."""
        ...
